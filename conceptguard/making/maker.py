"""What every maker needs: its settings, and the artifact with its measured gate, written or found again."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..concept import Concept, as_concept
from ..errors import ArtifactError, PolicyError
from ..files.paths import slug
from ..formats import base_weights_of
from ..registry import Artifact, open_artifact, write_artifact
from ..runtime.calibration import calibrate
from ..version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from ..host import Host
    from ..method import Method


def family_of(host: Host) -> str:
    """The base family that an artifact of this model belongs to: the model's name, or its folder's."""
    name = getattr(host.target, "name", None) or getattr(host.target, "name_or_path", "") or "model"
    return slug(Path(str(name)).name) or "model"


def make_settings(method: type[Method], options: Mapping[str, Any], **others: Any) -> Any:
    """A method's MakeSettings from options and those of ``others`` that are not None. Raises PolicyError by name."""
    try:
        return method.MakeSettings(**options, **{name: value for name, value in others.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        known = method.MakeSettings.model_fields
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
        why = f"unknown option; {hint}" if first["type"] == "extra_forbidden" else first["msg"]
        raise PolicyError(f"making {method.name}: {name}: {why}") from None


def weights_mark(host: Host) -> str:
    """A short mark of the very weights of the attention layers (a language model's: of all): another for a fine-tuned
    sibling.
    """
    weight = base_weights_of(host.layers())
    names = [n for n in host.layers() if ".attentions." in n] or list(host.layers())
    sums = [float(weight(n).double().sum()) for n in names if weight(n).is_floating_point()]
    return hashlib.sha256(repr(sums).encode()).hexdigest()[:16]


def find_made(method: type[Method], host: Host, concept: Any, out: Path, **options: Any) -> Artifact | None:
    """The artifact that ``make`` with these arguments would write again, where it is there already and sound."""
    options = dict(options)
    preserve, seed = options.pop("preserve", ()), options.pop("seed", 0)
    concept = as_concept(concept)
    try:
        found = open_artifact(place(method.name, host, concept, out))
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


def place(method: str, host: Host, concept: Concept, out: Path) -> Path:
    """The folder of an artifact: ``out/<family>/<method>/<name>``."""
    return Path(out) / family_of(host) / method / slug(concept.name)


def write(
    method: str,
    host: Host,
    concept: Concept,
    out: Path,
    tensors: Mapping[str, Tensor],
    made: Mapping[str, Any],
    keep: Sequence[str],
    own: Sequence[str] | None,
    *,
    filename: str,
    metadata: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Artifact:
    """Measure the gate and write the artifact to ``out/<family>/<method>/<name>``.

    keep: texts for which the gate must stay closed, beside ordinary captions; own: texts that must open it, None for a
    guard that prompts do not open; settings: of the guard at run time, where a policy says nothing else.
    """
    fields = {
        "name": slug(concept.name),
        "method": method,
        "concept": concept.model_dump(),
        "base": {"family": family_of(host), "fingerprint": host.fingerprint()},
        "made": {"with": f"conceptguard {__version__}", "weights": weights_mark(host), **made},
        "settings": dict(settings or {}),
    }
    if own is not None:
        fields["gate"] = calibrate(concept.prompts, host.read, keep=keep, own=own).as_dict()
    return write_artifact(place(method, host, concept, out), fields, tensors, filename=filename, metadata=metadata)
