"""Write the generator as a sibling of emoji-sd: the change of its weights, and a schedule of the one step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from conceptguard.formats import to_kohya
from conceptguard.hosts.diffusers.sibling import CHANGE, MARK

from ..emoji_sd import export as emoji_sd
from .delta import Changed
from .distil import TIME

FIRST, LAST = 0.00085**0.5, 0.012**0.5  # of the square roots of emoji-sd's betas, between which they are linear


def schedule() -> dict[str, object]:
    """What a DDIM scheduler has otherwise that takes one step from ``TIME``, as pure noise, to the picture."""
    last = FIRST + (LAST - FIRST) * TIME / 999
    return {"num_train_timesteps": TIME + 1, "beta_end": last**2, "timestep_spacing": "trailing",
            "set_alpha_to_one": True}  # fmt: skip


def export(learnt: Mapping[str, Tensor], teacher: Path, out: Path) -> None:
    """learnt: what ``Changed`` holds"""
    rank = len(learnt["down.0"])
    net = Changed(emoji_sd.load(teacher).unet, rank, 0)
    net.load_state_dict(learnt)
    tensors, metadata = to_kohya(net.factors())
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / CHANGE, metadata)
    (out / MARK).write_text(json.dumps({"base": teacher.name, "scheduler": schedule()}, indent=2) + "\n")
