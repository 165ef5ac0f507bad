"""RealEra: what lies around a concept is erased with it, in closed form and then by training; what lies beyond is held.

W* of UCE for c and its neighbours c + δ,  then   ε_θ(x_t, c + δ)  ←  ε₀(x_t, a)   and   ε_θ(x_t, b)  ←  ε₀(x_t, b)

δ: to the nearest words of the text encoder, or noise of a certain size; a: what appears instead; b: what lies beyond.

Liu et al., "RealEra: Semantic-level Concept Erasure via Neighbor-Concept Mining", 2024. The authors published no code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from conceptguard.concept import together
from conceptguard.generation.conditioning import Encoded
from conceptguard.making.edits import Problem, solve
from conceptguard.making.encoded_texts import EncodedTexts
from conceptguard.making.templates import filled
from conceptguard.runtime.lowrank import Factors
from conceptguard.text.words import stands_in

from ..trained_layers import Layers, LayerSettings, Plan, TrainedLayers
from .neighbours import neighbours

if TYPE_CHECKING:
    from conceptguard.making.task import Task

    from ..trained_layers import State


class RealEraMakeSettings(LayerSettings):
    """How neighbours are found, the edit solved, and the layers trained. The paper's numbers are not published.

    around: "words", the nearest ones that the text encoder has; "noise", embeddings moved at random, as in the paper:
    in hundreds of dimensions such a move is at right angles to all that means something
    count, alike: at most so many neighbours, of at least that cosine; they become prompts of the artifact's concept
    radius: of noise, as a share of each embedding; what lies beyond is moved three times as far
    lamb, preserve_scale: of the edit, as for uce
    beyond: weight of what lies beyond
    """

    layers: Layers = "strict"
    steps: int = Field(default=40, ge=1)
    around: Literal["words", "noise"] = "words"
    count: int = Field(default=8, ge=0)
    alike: float = Field(default=0.7, gt=0, le=1)
    radius: float = Field(default=0.3, gt=0)
    lamb: float = Field(default=0.5, gt=0)
    preserve_scale: float = Field(default=1.0, ge=0)
    beyond: float = Field(default=1.0, ge=0)


class RealEra(TrainedLayers):
    """Pictures: a concept and its neighbours erased by a solved edit that is then trained on, what lies beyond held.

    Terms beside the layers that read text, gated by the prompt. A gate opens for neighbours as well.
    """

    name = "realera"
    several = True
    MakeSettings = RealEraMakeSettings

    @classmethod
    def plan(cls, task: Task) -> Plan:
        """Neighbours, UCE's edit of them all, and the formula that it is trained on by."""
        s, host = task.settings, task.host
        wide, near, far = widened(task) if s.around == "words" and s.count else (task, [], [])
        problem = Problem.of(wide, s.templates, "tail")
        start = {}
        for stream in problem.streams:  # of a pooled vector, too: what it says is drawn, whatever the states say
            edit = solve(problem.rows[stream.kind], s.lamb, 1.0, s.preserve_scale)
            for name, weight in stream.weights.items():
                down = stream.widened(edit.down, stream.inputs)
                start[name] = Factors(
                    down.float().cpu(), (weight.double() @ edit.shift.T.to(weight.device)).float().cpu()
                )
        anchors = EncodedTexts(host, wide.instead(s.templates))
        others = EncodedTexts(host, filled(s.templates, [*task.preserve, *far]) or [""])

        def loss(now: State) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            rows = torch.randint(len(others), (len(now.rows),), generator=now.random).tolist()
            asked, held = now.asked, others.rows(rows)
            if s.around == "noise":
                asked, held = moved(asked, s.radius, now.random), moved(now.asked, 3 * s.radius, now.random)
            goal, stays, without = now.frozen(anchors.rows(now.rows), held, now.nothing)
            said, kept = now.trained(asked, held)
            return F.mse_loss(said, goal) + s.beyond * F.mse_loss(kept, stays), (said, without)

        return Plan(wide.own(s.templates), loss, start, near)


def widened(task: Task) -> tuple[Task, list[str], list[str]]:
    """The task with each concept's neighbours among its prompts; these, and what lies beyond, of all concepts."""
    s, random = task.settings, torch.Generator().manual_seed(task.seed)
    near: list[str] = []
    far: list[str] = []
    wide = []
    for one in task.each:
        found = neighbours(task.host.encoders()[0], one.prompts, task.preserve, s.count, s.alike, random)
        # A neighbour of one concept may be another one, or be found of both.
        more = [word for word in found.near if word not in near and word not in task.concept.prompts]
        wide.append(one.model_copy(update={"prompts": [*one.prompts, *more]}))
        near, far = [*near, *more], [*far, *found.far]
    far = [word for word in far if word not in near and not any(stands_in(p, word) for p in task.concept.prompts)]
    whole = together(wide, task.concept.name)
    return replace(task, concept=whole, several=wide if task.several else ()), near, far


def moved(encoded: Encoded, radius: float, random: torch.Generator) -> Encoded:
    """Embeddings moved at random by a share of their own length each, [rows, tokens, width]."""
    noise = torch.randn(encoded.embeds.shape, generator=random).to(encoded.embeds)
    far = radius * encoded.embeds.norm(dim=-1, keepdim=True) * noise / noise.norm(dim=-1, keepdim=True)
    return Encoded(encoded.embeds + far, encoded.ids, encoded.pooled)
