"""RECE: after an edit, the embedding that would bring the concept back is derived and erased too, again and again.

Gong et al., "Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models", ECCV 2024. With W' the edited
weights of all layers and W the model's own, the embedding that comes nearest to a concept's row c is

    c' = (ρ I + Σ W'ᵀW')⁻¹ (Σ W'ᵀW) c

All layers share the edit, W' = W T, see ``making.edits.derive``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.making.edits import (
    Edit,
    Problem,
    Rows,
    brought_back,
    products,
    read_rows,
    solve,
    trimmed,
    with_synonyms,
    wordings,
)
from conceptguard.making.task import Learned, Task
from conceptguard.making.templates import TEMPLATES

from .closed_form import ClosedForm, EditSettings


class RECEMakeSettings(EditSettings):
    """How the edit is solved, and how often what brings the concept back is erased.

    lamb, erase_scale, preserve_scale, tokens, templates: as for uce
    regulariser: ρ, as a share of the mean eigenvalue of G: the smaller, the farther from prompts lies what is derived
    compat: "paper": derived embeddings are erased together with the concept itself; "official": alone, each round an
        edit of what the last one left, as the authors' code has it, by which the concept comes back in part
    again_lamb, again_preserve: of official rounds, pull towards the weights as they are and weight of kept rows
        [0.1 and 0.1]
    rounds: at most so many [3]; fewer are kept where another one does too little or moves too much, see the next two
    gain: a round counts where, in wordings kept apart, it takes off this share of what came back before it
    moves: how much farther than the first edit all rounds may move what must stay, as a share of how far that moves it
    validation: templates kept apart, in which this is measured
    synonyms: words that the model's layers read as the concept are erased with it, and open its gate: those nearer to
        it than this share of the way to what must stay; 0: none, as in the paper
    """

    regulariser: float = Field(default=0.1, gt=0)
    compat: Literal["paper", "official"] = "paper"
    again_lamb: float = Field(default=0.1, gt=0)
    again_preserve: float = Field(default=0.1, ge=0)
    rounds: int = Field(default=3, ge=1, le=50)
    gain: float = Field(default=0.5, ge=0, le=1)
    moves: float = Field(default=1.0, ge=0)
    validation: list[str] = list(TEMPLATES[2:])
    synonyms: float = Field(default=0.5, ge=0, lt=1)


class RECE(ClosedForm):
    """Pictures: an edit like UCE's, which also erases the embeddings that would undo it; made in seconds.

    A closed-form edit as low-rank terms, gated by the prompt unless the policy says ``gate: always``.
    """

    name = "rece"
    several = True
    MakeSettings = RECEMakeSettings

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Solve UCE's edit, then as many rounds as wordings kept apart say. The manifest's ``made`` tells of each.

        Raises ArtifactError when there is no solution, PolicyError when no wording is left to decide by.
        """
        s = task.settings
        apart = [t for t in s.validation if t not in s.templates]
        if not apart:
            raise PolicyError("making rece: every template of validation is one of templates: keep at least one apart")
        task.check(apart)
        task, also = with_synonyms(task, s.synonyms)
        problem = Problem.of(task, s.templates, s.tokens)
        held = read_rows(task.host, [w for one in task.each for w in wordings(one, apart)], [], s.tokens)
        edits, told = {}, {}
        for stream in problem.streams:
            kind, whole = stream.kind, torch.cat([weight.double() for weight in stream.weights.values()])
            edits[kind], told[kind] = iterate(problem.rows[kind], held[kind], products(whole, whole), s)
        tried = {kind: [one._asdict() for one in rounds] for kind, rounds in told.items()}
        return replace(problem.learned(edits, rounds=tried), also=also)


class Round(NamedTuple):
    """What an edit does.

    returned: of the way from a concept's keys and values to its guide's, in wordings kept apart, what the embeddings
        derived from these bring back; blocked: the share of what they brought back before this round that it took off
    moved: how much of what must stay moved, relative to itself
    """

    returned: float
    blocked: float
    moved: float


def iterate(rows: Rows, apart: Rows, gram: Tensor, s: RECEMakeSettings) -> tuple[Edit, list[Round]]:
    """UCE's edit and the rounds that are worth it; what each does, the first edit first.

    apart: rows of wordings kept apart; gram: Σ WᵀW of all layers of the stream, [d, d], fp64
    """
    ridge, stays = s.regulariser * float(gram.diagonal().mean()), products(rows.preserved, rows.preserved)
    edit, all_rows = solve(rows, s.lamb, s.erase_scale, s.preserve_scale, stays), rows
    known = brought_back(edit, gram, apart.erased, ridge)
    told = [Round(_returned(edit, gram, known, apart), 0.0, _moved(edit, gram, stays))]
    for _ in range(s.rounds):
        derived = brought_back(edit, gram, rows.erased, ridge)
        if s.compat == "official":
            further = trimmed(
                edit.then(solve(rows._replace(erased=derived), s.again_lamb, 1.0, s.again_preserve, stays))
            )
        else:
            erased, guide = torch.cat([all_rows.erased.double(), derived]), torch.cat([all_rows.guide, rows.guide])
            all_rows = Rows(erased, guide, rows.preserved)
            further = solve(all_rows, s.lamb, s.erase_scale, s.preserve_scale, stays)
        blocked = 1 - _returned(further, gram, known, apart) / max(told[-1].returned, 1e-9)
        moved = _moved(further, gram, stays)
        if blocked < s.gain or moved > (1 + s.moves) * told[0].moved:
            break
        edit, known = further, brought_back(further, gram, apart.erased, ridge)
        told.append(Round(_returned(edit, gram, known, apart), round(blocked, 4), moved))
    return edit, told


def _returned(edit: Edit, gram: Tensor, derived: Tensor, apart: Rows) -> float:
    own, guide = apart.erased.double(), apart.guide.double()
    missed, way = derived @ edit.matrix().T - own, guide - own
    share = 1 - ((missed @ gram) * missed).sum() / ((way @ gram) * way).sum().clamp(min=1e-30)
    return round(float(share.clamp(min=0)), 5)


def _moved(edit: Edit, gram: Tensor, stays: Tensor) -> float:
    # Σ |W (T - I) p|² of all p that stay, from their products alone.
    changed = edit.shift.T @ edit.down
    moved = ((gram @ changed) * (changed @ stays)).sum() / (gram * stays).sum().clamp(min=1e-30)
    return round(float(moved.clamp(min=0).sqrt()), 5)
