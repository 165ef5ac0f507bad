"""SAFREE's artifacts: a concept's subspaces in every space of a base's text encoders, and a schedule measured there.

The paper chooses its schedule's constants anew for nudity and for artists, on Stable Diffusion 1.4; how much a
projection takes from a prompt depends on the text encoder. Here the midpoint is measured between prompts of the concept
and prompts to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from conceptguard.errors import ArtifactError, BaseMismatch, PolicyError
from conceptguard.making.task import Learned, Opens, Task
from conceptguard.making.templates import TEMPLATES, encode_all, fill
from conceptguard.method import Settings
from conceptguard.runtime.encodings import ordinary_captions

from .math import out_of
from .projection import of_states
from .triggers import concept_subspaces, read

if TYPE_CHECKING:
    from conceptguard.host import Host
    from conceptguard.protocols import TextEncoder
    from conceptguard.registry import Artifact

STRANGE = 0.05  # a phrase farther than this share of its length from its own subspace was read by another encoder


class SAFREEMakeSettings(Settings):
    """How the schedule is measured.

    positions, scale, alpha, up_t, k: what the guard will run with, see its settings [the paper: triggers, 1, 0.01, 10,
    2.5]
    templates: what prompts are put into, {} or with an article {a}
    """

    positions: Literal["triggers", "all"] = "all"
    scale: float = Field(default=1.0, gt=0)
    alpha: float = Field(default=0.01, ge=0)
    up_t: int = Field(default=10, ge=0)
    k: float = 2.5
    templates: list[str] = list(TEMPLATES)


def learn(task: Task) -> Learned:
    """The subspaces, ``<encoder>.<space>``: orthonormal rows [n, width]; the schedule is among the guard's settings.

    Raises PolicyError for a host without text encoders.
    """
    s, concept, host = task.settings, task.concept, task.host
    task.check(s.templates)
    if host.generates == "text":
        raise PolicyError(f"safree reads text encoders, and {host.name} has none")
    encoders = host.encoders()
    concepts = [concept_subspaces(encoder, concept.prompts) for encoder in encoders]
    own = [fill(t, p) for p in concept.prompts for t in s.templates]
    # Every word of each of these is read masked: one wording of each thing to keep is enough to know what it loses.
    kept = [fill(s.templates[i % len(s.templates)], p) for i, p in enumerate(task.preserve)]
    ordinary = ordinary_captions(without=concept.prompts)
    taken = betas(host, encoders, concepts, own, s.alpha)
    others = betas(host, encoders, concepts, [*ordinary, *kept], s.alpha)
    # Of a lone word or two almost anything may be taken, whatever they say: the outermost twentieth does not count.
    least, most = float(taken.quantile(0.05)), float(others.quantile(0.95))
    # Half-way between the two where they are apart; where they are not, the concept's own count.
    t0 = 10 * (least + min(least, most)) / 2
    run = s.model_dump(include={"positions", "scale", "alpha", "up_t", "k"})
    tensors = {f"{e.name}.{i}": space for e, spaces in zip(encoders, concepts) for i, space in enumerate(spaces)}
    made = task.made(beta={"concept": _range(taken), "kept": _range(others)})
    return Learned(tensors, made, Opens(own, kept), {**run, "t0": round(t0, 3)})


@torch.no_grad()
def betas(
    host: Host, encoders: Sequence[TextEncoder], concepts: Sequence[Sequence[Tensor]], texts: list[str], alpha: float
) -> Tensor:
    """How much the projection takes from each text, β [texts]: the most of all encoders, as the schedule has it."""
    embeds = encode_all(host, texts).embeds.float()
    found = []
    for encoder, spaces in zip(encoders, concepts):
        if encoder.width is None:
            continue
        parts = [known[0] for known, _ in read(encoder, spaces, texts, alpha, official=False, padding=False)]
        lengths = [encoder.length(ids) for ids in encoder.ids(texts)]
        own = embeds[:, encoder.tokens, encoder.width]
        found.append(of_states(encoder, spaces[0], parts, lengths, own, official=False).beta)
    return torch.stack(found).amax(0)


def subspaces_of(artifact: Artifact, encoders: Sequence[TextEncoder]) -> list[list[Tensor]]:
    """An artifact's subspaces, as ``concept_subspaces`` gives them for each encoder.

    Raises ArtifactError where one is missing, BaseMismatch where they are not of these encoders: a fine-tuned one may
    have the same shape and mean other directions.
    """
    tensors, phrase = artifact.tensors(), artifact.manifest.concept.prompts[0]
    found = []
    for encoder in encoders:
        seen = [space[0] for space in encoder.vectors([encoder.ids([phrase])[0]])]
        spaces = [tensors.get(f"{encoder.name}.{i}") for i in range(len(seen))]
        for i, (vector, space) in enumerate(zip(seen, spaces)):
            if space is None or space.shape[-1] != len(vector):
                raise ArtifactError(f"{artifact.ref} has no subspace {encoder.name}.{i} of this model: make it again")
            left = out_of(vector.unsqueeze(0), space.to(vector)).norm() / vector.norm()
            if float(left) > STRANGE:
                raise BaseMismatch(
                    f"{artifact.ref} was made with another {encoder.name}: '{phrase}' is not in its subspace; make it "
                    "again for this model, or give the policy the concept instead"
                )
        found.append([space for space in spaces if space is not None])
    return found


def _range(values: Tensor) -> dict[str, float]:
    return {"least": round(float(values.min()), 4), "most": round(float(values.max()), 4)}
