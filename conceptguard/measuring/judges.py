"""Who says what a picture shows: an embedded model's two judges, of two kinds, or those in folders of one's own.

The first one's figures stand in the columns that every table has, the second one's beside them under ``second_``. They
share nothing, neither weights nor a way to see, so that what a guard does to one of them alone is no erasure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RegistryError
from ..registry import shipped_folder
from ..registry.signed.beside import shipped
from .judge import Assessor, Judge
from .retrieval import RetrievalJudge

if TYPE_CHECKING:
    from .samples import Pictures
    from .suite import Sample, Suite

KINDS: dict[str, type[Judge] | type[RetrievalJudge]] = {"classifier": Judge, "retrieval": RetrievalJudge}
MOST = 2


@dataclass(frozen=True)
class Judges:
    """The judge that bars are about, and maybe a second one. names: what both are called in reports."""

    first: Assessor
    second: Assessor | None = None
    names: tuple[str, ...] = ()

    @property
    def by_prefix(self) -> dict[str, Assessor]:
        """Each judge under what its columns begin with."""
        return {"": self.first, **({"second_": self.second} if self.second else {})}


def load_judge(name: str) -> Assessor:
    """A judge of either kind: an embedded one by its own name or its suite's, or the one in a folder, which
    `conceptguard judge` wrote. Raises RegistryError when there is none.
    """
    folder = _folder(name)
    if folder is None:
        raise RegistryError(
            f"no judge for '{name}': give --judge FOLDER, which `conceptguard judge PICTURES --out FOLDER` makes of "
            "pictures of yours"
        )
    try:
        kind = json.loads((folder / "config.json").read_text()).get("kind", "classifier")
        if kind not in KINDS:
            raise ValueError(f"kind '{kind}' is none of {', '.join(KINDS)}")
        return KINDS[kind].load(folder)
    except Exception as error:
        raise RegistryError(f"{folder} holds no judge: {error}: make it anew with `conceptguard judge`") from error


def load_judges(suite: Suite, named: Sequence[str] = (), load: Callable[[str], Assessor] = load_judge) -> Judges:
    """The judges that somebody named, one or two; else those that the suite names; else its base's own.

    Raises RegistryError for one that is missing, and for more than two.
    """
    asked = list(named) or suite.judges
    if not asked:
        base = suite.like or suite.base
        asked = [base, *(n for n in [f"{_short(base)}-retrieval"] if _folder(n))]
    if len(asked) > MOST:
        raise RegistryError(f"{len(asked)} judges ({', '.join(asked)}): give one, or two of different kinds")
    found = [load(name) for name in asked]
    names = tuple(folder.name if (folder := _folder(name)) else name for name in asked)
    return Judges(found[0], found[1] if len(found) > 1 else None, names)


def _folder(name: str) -> Path | None:
    """Where a judge of this name is. Raises RegistryError for a shipped one that is not what was signed."""
    models = shipped_folder() / "models"
    places = [Path(name).expanduser(), models / name, models / f"{_short(name)}-judge"]
    # A folder of somebody's that is called like an embedded model is one of weights, and no judge.
    found = next((place for place in places if (place / "config.json").is_file()), None)
    return shipped(f"models/{found.name}") if found is not None and found.parent == models else found


def _short(name: str) -> str:
    return name.removesuffix("-sd")


def check_judges(judges: Judges, samples: Iterable[Sample]) -> None:
    """Raises RegistryError where a sample asks for something that one of the judges could not tell."""
    heads = [{"object": judge.objects, "style": judge.styles} for judge in judges.by_prefix.values()]
    for sample in samples:
        for i, known in enumerate(heads):
            if sample.label not in known[sample.head]:
                who = judges.names[i] if i < len(judges.names) else "it"
                raise RegistryError(
                    f"the judge does not know the {sample.head} '{sample.label}': {who} knows "
                    f"{', '.join(known[sample.head][:12])}; name objects of the suite as the judge does, or train it "
                    "on pictures of that as well"
                )


def recognised(judge: Assessor, samples: Sequence[Sample], pictures: Pictures) -> list[bool]:
    """Whether the judge sees in each picture what its prompt asked for."""
    seen = judge.judge(pictures.pixels.float() / 255)
    answers = {"object": seen.objects, "style": seen.styles}
    return [answers[s.head][i] == s.label for i, s in enumerate(samples)]
