"""Snapshots of a training: interrupted and taken up again, it ends with the very bits of one that ran through."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from conceptguard.errors import ArtifactError
from conceptguard.files.atomic import write_bytes


class Snapshot:
    """A folder with ``state.safetensors`` and ``state.json``; one of other inputs is not taken up.

    inputs: everything that the result depends on, as plain data.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, Any]):
        self.folder = folder
        self._key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def save(
        self, step: int, parameters: Sequence[Tensor], optimiser: torch.optim.Optimizer, random: torch.Generator
    ) -> None:
        """Everything that step ``step`` starts from. The JSON comes last and names the tensors' hash."""
        tensors = {"random": random.get_state()}
        for i, parameter in enumerate(parameters):
            tensors[f"{i}.value"] = parameter.detach().cpu().contiguous()
            for name, value in optimiser.state[parameter].items():
                tensors[f"{i}.{name}"] = value.detach().cpu().contiguous()
        data = save(tensors)
        said = {"key": self._key, "step": step, "sha256": hashlib.sha256(data).hexdigest()}
        write_bytes(self.folder / "state.safetensors", data)
        write_bytes(self.folder / "state.json", json.dumps(said).encode())

    def restore(self, parameters: Sequence[Tensor], optimiser: torch.optim.Optimizer, random: torch.Generator) -> int:
        """Put everything back in place and return the step to go on with; 0 when there is nothing to take up.

        Raises ArtifactError when the snapshot was altered.
        """
        try:
            said = json.loads((self.folder / "state.json").read_bytes())
            data = (self.folder / "state.safetensors").read_bytes()
        except (OSError, ValueError):
            return 0
        if not isinstance(said, dict) or said.get("key") != self._key:
            return 0
        if hashlib.sha256(data).hexdigest() != said.get("sha256"):
            # An interruption between the two writes leaves a newer state beside an older word: start again.
            return 0
        tensors = load(data)
        try:
            random.set_state(tensors.pop("random"))
            for i, parameter in enumerate(parameters):
                parameter.data.copy_(tensors.pop(f"{i}.value"))
            for key, value in tensors.items():
                index, name = key.split(".")
                home = parameters[int(index)]
                optimiser.state[home][name] = value if name == "step" else value.to(home.device)
        except (KeyError, ValueError, RuntimeError) as error:
            why = f"not a snapshot of this training ({error})"
            raise ArtifactError(f"{self.folder}: {why}: delete the folder") from None
        return int(said["step"])

    def remove(self) -> None:
        """After the end: the artifact says everything."""
        shutil.rmtree(self.folder, ignore_errors=True)
