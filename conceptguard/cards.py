"""Cards: what was measured of an artifact, with the command that measures it and a picture, in its manifest."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .errors import ArtifactError
from .evaluate import Case, Row
from .registry import Artifact, open_artifact, rebuild_index
from .registry.write import write_files
from .samples import Pictures
from .sheet import Column, Group, contact_sheet

PICTURE = "card.png"
FIGURES = (
    "erased_before", "erased_after", "neighbours_before", "neighbours_after", "others_before", "others_after",
    "identical", "n",
)  # fmt: skip
HEADINGS = {"erased": "erased concepts", "neighbours": "near neighbours", "others": "unrelated"}


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
        chosen = list(range(0, len(samples), max(1, len(samples) // columns)))[:columns]
        shown = [
            Column(samples[i].prompt, old.pixels[i], new.pixels[i], old.digests[i] == new.digests[i]) for i in chosen
        ]
        groups.append(Group(heading, shown, note))
    return contact_sheet(groups, title, subtitle, cell)


def write_card(root: Path, artifact: Artifact, figures: Row, command: str, image: Image.Image) -> Artifact:
    """Write figures and picture beside the artifact in the registry folder ``root``, and list them in its index.

    Raises ArtifactError when the folder does not hold this very artifact.
    """
    there = open_artifact(root / artifact.ref)
    if _weights(there) != _weights(artifact):
        raise ArtifactError(f"{there.folder} is not the artifact that was judged: judge it from that registry")
    data = io.BytesIO()
    image.quantize(128, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
    files = {path: (there.folder / path).read_bytes() for path in there.weights()}
    card: dict[str, Any] = {name: figures[name] for name in FIGURES if figures[name] is not None}
    fields = there.manifest.model_dump(by_alias=True, exclude={"files"})
    written = write_files(
        there.folder, {**fields, "card": {**card, "command": command}}, {**files, PICTURE: data.getvalue()}
    )
    rebuild_index(root)
    return written


def _weights(artifact: Artifact) -> set[str]:
    return {file.sha256 for file in artifact.manifest.files if file.path.endswith(".safetensors")}


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
