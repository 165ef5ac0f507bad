"""Where an artifact belongs, how it is written, and how it is found again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..concept import Concept, as_concept
from ..errors import ArtifactError
from ..files.paths import slug
from ..registry import Artifact, open_artifact, write_artifact
from ..runtime.calibration import calibrate
from ..version import __version__
from .base import family_of, weights_mark
from .settings import make_settings
from .task import Learned, Task

if TYPE_CHECKING:
    from ..host import Host
    from .task import Maker


def place(method: type[Maker], host: Host | Any, concept: Concept, out: Path) -> Path:
    """The folder of an artifact: ``out/<family>/<method>/<name>``."""
    return Path(out) / (method.family or family_of(host)) / method.name / slug(concept.name)


def write(method: type[Maker], task: Task, learned: Learned) -> Artifact:
    """What was learned, with the gate measured where prompts open it."""
    host, concept, seconds = task.host, task.concept, round(time.perf_counter() - task.started, 2)
    made = {"with": f"conceptguard {__version__}"}
    if method.family is None:
        base = {"family": family_of(host), "fingerprint": host.fingerprint()}
        made["weights"] = weights_mark(host)
    else:
        base = {"family": method.family}
    fields = {
        "name": slug(concept.name), "method": method.name, "concept": concept.model_dump(), "base": base,
        "made": {**made, **learned.made, "seconds": seconds}, "settings": dict(learned.settings),
    }  # fmt: skip
    if learned.opens is not None:
        own, kept = learned.opens
        fields["gate"] = calibrate(concept.prompts, host.read, keep=kept, own=own).as_dict()
    filename = learned.filename or f"{task.folder.name}.safetensors"
    return write_artifact(task.folder, fields, learned.tensors, filename=filename, metadata=learned.metadata)


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
    same = (
        found.manifest.concept.model_dump() == concept.model_dump()
        and made.get("settings") == settings
        and made.get("preserve") == list(preserve)
        and made.get("seed", seed) == seed
        and made.get("weights") == weights_mark(host)
    )
    return found if same else None
