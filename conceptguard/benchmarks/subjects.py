"""What benchmarks time: a pipeline small or large, the inputs of one of its steps, and membranes for it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..hosts.diffusers.random_models import stable_diffusion_15
from ..hosts.load import load_model
from ..markers import hookimpl
from ..method import Method
from ..runtime.gates import Gate
from ..runtime.lowrank import Factors, LayerIndex, Terms


class Membranes(Method):
    """One of ``made``, the membranes of a benchmark that runs; registered only as long."""

    name: ClassVar[str] = "bench-membrane"
    needs: ClassVar[str] = "concept"
    made: ClassVar[list[dict[str, Factors]]] = []

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """One membrane; its gate never opens by itself."""
        assert self.guard.concept is not None
        which = int(self.guard.concept.name.split()[-1])
        prompts = tuple(self.guard.concept.prompts)
        return Terms(self, self.made[which], Gate(prompts=prompts, floor=0.999, full=1.0))


def membrane(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, Factors]:
    """Random factors for every linear and convolution layer in the attention blocks of a UNet."""
    random = torch.Generator().manual_seed(seed)
    found = {}
    for name, (out, *rest) in shapes.items():
        if name.startswith("unet.") and ".attentions." in name:
            down = torch.randn(1, *rest, generator=random) * 0.02
            found[name] = Factors(down, torch.randn(out, 1, *(1 for _ in rest[1:]), generator=random) * 0.02)
    return found


@dataclass
class Subject:
    """What is timed: a pipeline and the inputs of one step, guidance on."""

    pipe: Any
    inputs: dict[str, Tensor]

    def unet(self) -> nn.Module:
        """Another UNet over the very same weights: its own modules and hooks, no memory of its own."""
        own = self.pipe.unet
        shared = {id(t): t for t in [*own.parameters(), *own.buffers()]}
        return copy.deepcopy(own, shared)

    def with_unet(self, unet: nn.Module) -> Any:
        """A pipeline of the same class around another UNet."""
        return type(self.pipe)(**{**self.pipe.components, "unet": unet}, requires_safety_checker=False)


def subject(size: str, device: str, dtype: torch.dtype, text_layers: int = 1) -> Subject:
    """``emoji-sd``, or ``sd15``: a UNet of Stable Diffusion 1.5's size at 64 x 64 latents with random weights.

    text_layers: of the ``sd15`` text encoder, which has 12 and matters only where reading a prompt is timed
    """
    pipe = load_model("emoji-sd", torch_dtype=dtype)
    if size == "sd15":
        pipe = stable_diffusion_15(pipe, dtype, text_layers)
    pipe = pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    config = pipe.unet.config
    random = torch.Generator().manual_seed(0)
    latents = torch.randn(2, config.in_channels, config.sample_size, config.sample_size, generator=random)
    text = torch.randn(2, 77, config.cross_attention_dim, generator=random)
    inputs = {"sample": latents, "encoder_hidden_states": text}
    return Subject(pipe, {k: v.to(device, dtype) for k, v in inputs.items()} | {"timestep": torch.tensor(500)})
