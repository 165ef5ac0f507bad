"""One denoiser under several sets of weights: the teacher's own, and low-rank changes of them that are learnt."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from conceptguard.runtime.lowrank import Factors


def quick(latents: Tensor) -> torch.autocast:
    """Half precision where that is faster: a GPU has its own short cut through float32."""
    return torch.autocast(latents.device.type, torch.bfloat16, enabled=latents.device.type == "cpu")


class Changed(nn.Module):
    """The teacher with a low-rank change of every matrix and convolution, which begins as none.

    Called with states [n, 4, h, w], timesteps [n] and captions' states [n, tokens, width], it gives what the network
    does, [n, 4, h, w].
    """

    def __init__(self, teacher: nn.Module, rank: int, seed: int):
        super().__init__()
        self._teacher = [teacher]  # not a part of this module: its weights are frozen, and shared
        random = torch.Generator().manual_seed(seed)
        self.names = [name for name, weight in teacher.named_parameters() if weight.ndim > 1]
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        for name in self.names:
            weight = teacher.get_parameter(name)
            out, into = weight.flatten(1).shape
            self.down.append((torch.rand(rank, into, generator=random) * 2 - 1) / math.sqrt(into))
            self.up.append(torch.zeros(out, rank))
        self.to(weight.device)

    def forward(self, latents: Tensor, times: Tensor, context: Tensor) -> Tensor:
        (teacher,) = self._teacher
        weights = {}
        for name, down, up in zip(self.names, self.down, self.up):
            own = teacher.get_parameter(name)
            weights[name] = own + (up @ down).view_as(own)
        with quick(latents):
            return functional_call(teacher, weights, (latents, times, context)).sample.float()

    @torch.no_grad()
    def factors(self) -> dict[str, Factors]:
        """As terms beside the denoiser's layers, on the CPU, in half precision."""
        (teacher,), found = self._teacher, {}
        for name, down, up in zip(self.names, self.down, self.up):
            kernel = teacher.get_parameter(name).shape[2:]
            shapes = (len(down), -1, *kernel), (len(up), -1, *[1] * len(kernel))
            pair = [one.detach().cpu().half().reshape(shape) for one, shape in zip((down, up), shapes)]
            found[f"unet.{name.removesuffix('.weight')}"] = Factors(*pair)
        return found
