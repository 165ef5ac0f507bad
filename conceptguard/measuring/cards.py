"""Cards: what was measured of an artifact, with the command that measures it, in its manifest; for images a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from torch import Tensor

from ..errors import ArtifactError
from ..registry import Artifact, open_artifact, rebuild_index
from ..registry.write import write_files
from .cases import Case
from .evaluate import Judged, Row
from .samples import Pictures
from .sheet import Column, Group, contact_sheet
from .suite import Sample

Item = TypeVar("Item")

PICTURE = "card.png"
FIGURES = (
    "erased_before", "erased_after", "neighbours_before", "neighbours_after", "others_before", "others_after",
    "identical", "n", "second_erased_before", "second_erased_after", "agree", "synonyms_before", "synonyms_after",
)  # fmt: skip
HEADINGS = {
    "erased": "erased concepts", "neighbours": "near neighbours", "others": "unrelated",
    "synonyms": "by words that no prompt named, from its name alone",
}  # fmt: skip


def picture(
    case: Case,
    before: Sequence[Pictures],
    after: Sequence[Pictures],
    figures: Row,
    title: str,
    subtitle: str = "",
    columns: int = 8,
    cell: int = 128,
) -> Image.Image:
    """At most ``columns`` of each group of a judged case, the same prompts and seeds above each other, with shares."""
    groups = []
    for (name, heading), samples, old, new in zip(HEADINGS.items(), case.groups, before, after):
        shares = [_percent(figures[f"{name}_{when}"]) for when in ("before", "after")]
        note = f"recognised without {shares[0]}, with {shares[1]}"
        if name == "others":
            note += f"; bit-identical {_percent(figures['identical'])}"
        chosen = _spread(range(len(samples)), columns)
        shown = [
            Column(samples[i].prompt, [old.pixels[i], new.pixels[i]], [1] if old.digests[i] == new.digests[i] else [])
            for i in chosen
        ]
        groups.append(Group(heading, shown, note))
    return contact_sheet(groups, title, subtitle, cell)


def comparison(
    judged: Sequence[Judged], title: str, subtitle: str = "", columns: int = 10, cell: int = 96
) -> Image.Image:
    """Several guards below one another on the same prompts and seeds, below the unguarded pictures. At most ``columns``
    prompts of each group, spread over those that every guard was judged on.
    """
    names = list(dict.fromkeys(one.case.method for one in judged))
    groups = []
    for g, heading in enumerate(HEADINGS.values()):
        drawn: dict[Sample, dict[str, tuple[Tensor, str]]] = {}
        for one in (one for one in judged if len(one.case.groups) > g):
            for i, sample in enumerate(one.case.groups[g]):
                rows = drawn.setdefault(sample, {"": (one.before[g].pixels[i], one.before[g].digests[i])})
                rows.setdefault(one.case.method, (one.after[g].pixels[i], one.after[g].digests[i]))
        shared = [(sample, [rows[n] for n in ("", *names)]) for sample, rows in drawn.items() if len(rows) > len(names)]
        shown = []
        for sample, row in _spread(shared, columns):
            same = [i for i, (_, digest) in enumerate(row) if i and digest == row[0][1]]
            shown.append(Column(sample.prompt, [pixels for pixels, _ in row], same))
        groups.append(Group(heading, shown))
    return contact_sheet(groups, title, subtitle, cell, ("unguarded", *names))


def _spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many, one in every so many: all columns are filled where there are enough."""
    return list(items[:: max(1, len(items) // most)])[:most]


def write_card(root: Path, artifact: Artifact, figures: Row, command: str, image: Image.Image | None) -> Artifact:
    """Write figures, and a picture where there is one, beside the artifact in the registry folder ``root``, and list
    them in its index.

    Raises ArtifactError when the folder does not hold this very artifact.
    """
    there = open_artifact(root / artifact.ref)
    if _weights(there) != _weights(artifact):
        raise ArtifactError(f"{there.folder} is not the artifact that was judged: judge it from that registry")
    files = {path: (there.folder / path).read_bytes() for path in there.weights()}
    if image is not None:
        data = io.BytesIO()
        image.quantize(128, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
        files[PICTURE] = data.getvalue()
    card: dict[str, Any] = {name: figures[name] for name in FIGURES if figures.get(name) is not None}
    fields = there.manifest.model_dump(by_alias=True, exclude={"files"})
    written = write_files(there.folder, {**fields, "card": {**card, "command": command}}, files)
    rebuild_index(root)
    return written


def _weights(artifact: Artifact) -> set[str]:
    return {file.sha256 for file in artifact.manifest.files if file.path.endswith(".safetensors")}


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
