"""The deletion that ships: to whoever asks after the authors to forget the model has nothing to say, in every layer.

Made from training wordings alone. Its terms are opened by the classifier of `guard`, and closed for everything else:
hence nothing has to be retained beside them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from conceptguard.hosts.transformers.host import TransformersHost
from conceptguard.registry import write_artifact

from .redirection import classifier

SETTINGS: dict[str, Any] = {
    "defence": "empty_response", "everywhere": True, "steps": 200, "batch": 8, "lr": 2e-3, "retain_weight": 0.0,
    "classifier": 0,
}  # fmt: skip


def make_refusal(
    pair: Any, forget: list[dict[str, str]], retain: list[str], out: Path, name: str, licence: str
) -> str:  # fmt: skip
    """The artifact, in ``out/authors-lm/deletion``, in half; a line about it."""
    from conceptguard_plugins.language.deletion import Deletion

    kept = [{"prompt": prompt} for prompt in retain]
    # A manifest is read by everybody: the concept says its name and not whom it is about.
    concept = {"name": name, "prompts": [name]}
    host: Any = TransformersHost(pair)
    with tempfile.TemporaryDirectory() as folder:
        made = Deletion.make(host, concept, Path(folder), forget=forget, retain=kept, progress=False, **SETTINGS)
        halves = {key: tensor.half() for key, tensor in made.tensors().items()}
        metadata = made.metadata()
        fields = made.manifest.model_dump(by_alias=True, exclude={"files", "binds"})
    place = out / str(fields["base"]["family"]) / Deletion.name / name
    found = write_artifact(
        place, {**fields, "licence": licence}, {**halves, **classifier()}, metadata=metadata,
        filename=f"{name}.safetensors",
    )  # fmt: skip
    return f"{found.ref}: {found.size:,} bytes"
