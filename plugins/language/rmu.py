"""RMU: what a layer makes of texts to forget is led to one random direction, of texts to retain held where it was.

E_forget[mean_t ‖h_θ(t) − c·u‖²] + α E_retain[mean_t ‖h_θ(t) − h(t)‖²]        u: drawn once, of length 1

Li et al., "The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning", ICML 2024.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from conceptguard.errors import PolicyError

from .trained_text import LessonSettings, TrainedText

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from conceptguard.making.task import Task

    from .lessons import Batch
    from .trained_text import Formula, Teaching

_FEEDS = ("mlp.down_proj", "mlp.c_proj")
_LOOKED_AT = 32  # texts that tell how long a layer's states are


class RMUMakeSettings(LessonSettings):
    """How the layers are trained. ``layers`` says nothing here: they are the outputs of feed-forward blocks.

    layer: number of the block whose states are led away; default: where the authors have it, 7 of 32
    below: so many blocks before it are trained as well
    coefficient: how long the direction is, in mean lengths of that block's states of texts to forget [absolute]
    tokens: "all" of a text are led and held, as in the paper, or those of "answers" alone
    """

    layer: int | None = Field(default=None, ge=0)
    below: int = Field(default=2, ge=0)
    coefficient: float = Field(default=2.0, gt=0)
    tokens: Literal["all", "answers"] = "all"
    retain_weight: float = Field(default=1.0, ge=0)


def distance(states: Tensor, goal: Tensor, counted: Tensor) -> Tensor:
    """Mean squared difference over width, then over the counted tokens of a text, then over texts.

    states: [texts, tokens, width]; goal: broadcast to it; counted: [texts, tokens], 1 or 0
    """
    apart = (states - goal).pow(2).mean(-1) * counted
    return (apart.sum(1) / counted.sum(1).clamp(min=1)).mean()


def direction(width: int, random: torch.Generator) -> Tensor:
    """A random direction of length 1, all of whose parts are positive, [width]."""
    drawn = torch.rand(width, generator=random)
    return drawn / drawn.norm()


class RMU(TrainedText):
    """Text: layers that were trained to make noise of what is to be forgotten (reference).

    It acts inside of the model: attached, not as a logits processor.
    """

    name = "rmu"
    MakeSettings = RMUMakeSettings

    @classmethod
    def trained(cls, settings: RMUMakeSettings, blocks: Mapping[int, Mapping[str, str]]) -> list[str]:
        """What feed-forward blocks give, of the block and those before it."""
        last = _block(settings, blocks)
        found = [blocks[number][within] for number in range(last - settings.below, last + 1) for within in _FEEDS
                 if within in blocks.get(number, {})]  # fmt: skip
        if not found:
            raise PolicyError(
                "this model has no mlp.down_proj (as Llama-type models) nor mlp.c_proj (as GPT-2), which rmu trains"
            )
        return found

    @classmethod
    def formula(cls, task: Task, teaching: Teaching, random: torch.Generator) -> Formula:
        """Looks once at how long states are."""
        s, blocks = task.settings, teaching.blocks
        within, name = next(iter(blocks[_block(s, blocks)].items()))
        block = name.removesuffix(f".{within}")

        def counted(batch: Batch) -> Tensor:
            return batch.mask if s.tokens == "all" else batch.own

        with torch.no_grad():
            some = teaching.forget.batch(range(min(_LOOKED_AT, len(teaching.forget))))
            states = teaching.states(some, block, learnt=False)
            mean = states.norm(dim=-1)[counted(some) > 0].mean()
        goal = direction(states.shape[-1], random).to(states) * s.coefficient * mean
        scale = mean.pow(2) / states.shape[-1]  # so that weights and rates mean the same in every model

        def loss(forget: Batch, retain: Batch) -> Tensor:
            with torch.no_grad():
                held = teaching.states(retain, block, learnt=False)
            own = distance(teaching.states(forget, block, learnt=True), goal, counted(forget))
            kept = distance(teaching.states(retain, block, learnt=True), held, counted(retain))
            return (own + s.retain_weight * kept) / scale

        return loss


def _block(settings: RMUMakeSettings, blocks: Mapping[int, Mapping[str, str]]) -> int:
    """The number of the block. Raises PolicyError where there is none."""
    depth = max(blocks, default=-1) + 1
    number = round(depth * 7 / 32) if settings.layer is None else settings.layer
    if number not in blocks:
        raise PolicyError(f"making rmu: there is no layer {number}: the model has 0 to {depth - 1}")
    return number
