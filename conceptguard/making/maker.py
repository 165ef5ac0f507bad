"""Where an artifact belongs, how it is written, and how it is found again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..concept import Concept, as_concept, as_concepts
from ..errors import ArtifactError, PolicyError, meant
from ..files.paths import slug
from ..registry import Artifact, open_artifact, write_artifact
from ..runtime.calibration import WORDS, Calibration, Sight, calibrate, settled, sight
from ..runtime.encodings import ordinary_captions
from ..runtime.once import meanwhile
from ..version import __version__
from .base import family_of, weights_mark
from .settings import make_settings
from .task import Learned, Task
from .templates import fill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ..host import Host
    from .task import Maker


def place(method: type[Maker], host: Host | Any, concept: Concept, out: Path) -> Path:
    """The folder of an artifact: ``out/<family>/<method>/<name>``."""
    return Path(out) / (method.family or family_of(host)) / method.name / slug(concept.name)


def write(method: type[Maker], task: Task, learned: Learned) -> Artifact:
    """What was learned, with the gate measured where prompts open it."""
    host, concept, seconds = task.host, task.concept, round(time.perf_counter() - task.started, 2)
    made: dict[str, Any] = {"with": f"conceptguard {__version__}"}
    if learned.also:
        concept = concept.model_copy(update={"prompts": [*concept.prompts, *learned.also]})
        made["also"] = list(learned.also)
    if method.family is None:
        print_of_base = host.encoder_fingerprint() if learned.encoders else host.fingerprint()
        base = {"family": family_of(host), "fingerprint": print_of_base}
        made["weights"] = weights_mark(host)
    else:
        base = {"family": method.family}
    fields = {
        "name": slug(concept.name), "method": method.name, "concept": concept.model_dump(), "base": base,
        "made": {**made, **learned.made, "seconds": seconds}, "settings": dict(learned.settings),
    }  # fmt: skip
    if learned.opens is not None:
        own, kept = learned.opens
        if task.several:
            found = _of_several(task, kept, learned.also)
        else:
            found = calibrate(concept.prompts, host.read, keep=kept, own=own, known=host.encoding_cache())
        fields["gate"] = found.as_dict()
    filename = learned.filename or f"{task.folder.name}.safetensors"
    artifact = write_artifact(task.folder, fields, learned.tensors, filename=filename, metadata=learned.metadata)
    if task.several:
        task.pieces.keep_asked()
    return artifact


def _of_several(task: Task, kept: Sequence[str], also: Sequence[str]) -> Calibration:
    """A gate that every concept of several opens, and what was found beside them, from what each by itself sees."""
    known, found = task.host.encoding_cache(), []
    every = [*task.several, *([Concept(name="also", prompts=list(also))] if also else [])]
    with meanwhile(), task.bar(len(every), ", gate") as tick:
        for i, concept in enumerate(every):
            own = [fill(t, p) for p in concept.prompts for t in task.settings.templates]

            def see(concept: Concept = concept, own: list[str] = own) -> dict[str, Tensor]:
                return sight(concept.prompts, task.host.read, keep=kept, own=own, known=known)._asdict()

            asked = {"gate": concept.prompts, "kept": list(kept), "captions": ordinary_captions(), "words": WORDS}
            found.append(Sight(**task.pieces.get(asked, see)))
            tick(i)
    return settled(found)


def without(artifact: Artifact, names: Sequence[str]) -> list[Concept]:
    """The concepts that are left of an artifact of several when some are withdrawn. Raises PolicyError."""
    listed = artifact.manifest.made.get("concepts")
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise PolicyError(f"{artifact.ref} is of one concept: delete it (`conceptguard remove`), or make it anew")
    known = {slug(one.name): one for one in as_concepts(listed)}
    for name in names:
        if known.pop(slug(name), None) is None:
            hint = meant(slug(name), known, "`conceptguard show` lists what it has")
            raise PolicyError(f"{artifact.ref} has no concept '{name}': {hint}")
    if not known:
        raise PolicyError(f"nothing would be left of {artifact.ref}: delete it, with `conceptguard remove`")
    return list(known.values())


def find_made(method: type[Maker], host: Host, concept: Any, out: Path, **options: Any) -> Artifact | None:
    """The artifact that ``make`` with these arguments would write again, where it is there already and sound."""
    options = dict(options)
    preserve, seed = options.pop("preserve", ()), options.pop("seed", 0)
    concept = as_concept(concept)
    try:
        found = open_artifact(place(method, host, concept, out))
        found.verify()
    except ArtifactError:
        return None
    made, settings = found.manifest.made, make_settings(method, options).model_dump()
    known = found.manifest.concept.model_dump()
    known["prompts"] = known["prompts"][: len(known["prompts"]) - len(made.get("also", ()))]
    same = (
        known == concept.model_dump()
        and made.get("settings") == settings
        and made.get("preserve") == list(preserve)
        and made.get("seed", seed) == seed
        and made.get("weights") == weights_mark(host)
    )
    return found if same else None
