"""Null-space edits: a concept is erased in directions that nothing which must stay has a part in.

Li et al., "SPEED: Scalable, Precise, and Efficient Concept Erasure for Diffusion Models", ICLR 2026. Turning outputs
instead: Sun et al., "Orthogonal Concept Erasure", ICML 2026.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.formats import to_diffusers
from conceptguard.making.edits import (
    Edit,
    Kind,
    Problem,
    Stream,
    Tokens,
    channels,
    directions,
    how_many_fit,
    read_rows,
    rotate,
    runs_of,
    solve_free,
)
from conceptguard.making.task import Learned, Task
from conceptguard.method import Settings
from conceptguard.runtime.lowrank import Factors

from .closed_form import ClosedForm


class NullspaceMakeSettings(Settings):
    """How the edit is solved.

    cutoff: directions in which what must stay has less than this share of its strongest one count as free. At the
        default, kept texts do not move at all; more room, for more texts than the width holds, takes a larger one
    lamb: pull towards the old weights, as a share of the mean weight of a free direction
    preserve_scale: how much all positions of kept texts weigh where they are not held; their last tokens always are
    rotation: turn what layers say of the concept to what they say of its replacement, and leave its size, as Orthogonal
        Concept Erasure does; room is then counted in a layer's outputs, and preserve_scale has no part
    tokens: of erased texts, "tail", from the concept's last token to the end of padding; "last", that token alone [in
        the authors' code]
    templates: what the concept's prompts are put into, {} or with an article {a} [the bare prompt]
    """

    cutoff: float = Field(default=1e-12, gt=0, lt=1)
    lamb: float = Field(default=0.01, gt=0)
    preserve_scale: float = Field(default=0.1, ge=0)
    rotation: bool = False
    tokens: Tokens = "tail"
    templates: list[str] = ["{}"]


class Nullspace(ClosedForm):
    """Pictures: a solved edit that does not move what must stay, to the rounding; made in seconds.

    A closed-form edit as low-rank terms, gated by the prompt unless the policy says ``gate: always``.
    """

    name = "nullspace"
    several = True
    MakeSettings = NullspaceMakeSettings

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Solve an edit in what ``preserve`` leaves free. The manifest's ``made`` has how much that is, and how far
        what stays moves.

        Raises PolicyError when nothing is left free, ArtifactError when there is no solution.
        """
        s = task.settings
        problem = Problem.of(task, s.templates, s.tokens)
        stays = held_rows(problem)
        if s.rotation:
            return _rotated(problem, stays)
        edits, free, moved = {}, {}, {}
        for stream in problem.streams:
            kind, rows = stream.kind, problem.rows[stream.kind]
            basis = _free(stays[kind], s.cutoff, len(task.concept.prompts), task)
            weight = float((rows.erased.double() @ basis).square().sum()) / basis.shape[1]
            edits[kind] = solve_free(rows, basis, max(s.lamb * weight, 1e-12), s.preserve_scale)
            free[kind], moved[kind] = basis.shape[1], moves(edits[kind], stream, stays[kind])
        return problem.learned(edits, free=free, moved=moved)


def _rotated(problem: Problem, stays: dict[Kind, Tensor]) -> Learned:
    s, terms, free = problem.task.settings, {}, {}
    for stream in problem.streams:
        for name, weight in stream.weights.items():
            rows, held = problem.rows[stream.kind], stays[stream.kind]
            (down, up, _), free[name] = rotate(weight, rows, held, s.cutoff, s.lamb)
            if free[name] < len(problem.task.concept.prompts):
                raise PolicyError(
                    f"{name} has {len(weight)} outputs, and what must stay takes all but {free[name]}: keep fewer "
                    "texts, raise cutoff, or leave rotation out"
                )
            down = stream.widened(down, stream.inputs)
            terms[name] = Factors(down.float().cpu().contiguous(), up.float().cpu().contiguous())
    tensors, metadata = to_diffusers(terms)
    ranks = {name: len(one.down) for name, one in terms.items()}
    made = problem.task.made(rank=max(ranks.values()), ranks=ranks, free=free)
    return Learned(tensors, made, problem.opens, metadata=metadata)


def held_rows(problem: Problem) -> dict[Kind, Tensor]:
    """What must not move, by stream, [rows, d]: of a prompt without words the begin token and three means of its
    padding, for which the authors take centres of clusters; then the last token of every kept text.
    """
    host = problem.task.host
    nothing = host.encode([""])
    read = read_rows(host, [], list(problem.task.preserve), "last")
    found: dict[Kind, Tensor] = {}
    for kind, rows in read.items():
        if kind == "states":
            said = nothing.embeds[0][:, channels(host)]
            runs = [said[encoder.tokens] for encoder in runs_of(host)]
            empty = torch.cat([torch.stack([run[0], *(part.mean(0) for part in run[1:].chunk(3))]) for run in runs])
        else:
            assert nothing.pooled is not None
            empty = nothing.pooled
        found[kind] = torch.cat([empty, rows.preserved])
    return found


def _free(held: Tensor, cutoff: float, needed: int, task: Task) -> Tensor:
    taken, free = directions(held, cutoff)
    if free.shape[1] >= min(needed, held.shape[1] - 1):
        return free
    texts = len(task.preserve)
    fit = max(how_many_fit(held, cutoff, needed) - (len(held) - texts), 0)
    raise PolicyError(
        f"what must stay takes {taken.shape[1]} of the {held.shape[1]} directions that layers read, and erasing "
        f"{needed} prompts takes as many again: of {texts} texts to keep {fit} fit. Keep fewer, or raise cutoff, by "
        "which the weakest directions of what stays may move"
    )


def moves(edit: Edit, stream: Stream, held: Tensor) -> float:
    """The largest change of a held row's outputs, over all layers together, relative to them."""
    whole = torch.cat([weight.double() for weight in stream.weights.values()])
    rows = held.double()
    change = ((rows @ edit.down.T) @ edit.shift) @ whole.T
    return float((change.norm(dim=1) / (rows @ whole.T).norm(dim=1).clamp(min=1e-30)).max())
