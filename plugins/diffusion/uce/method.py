"""UCE: the cross-attention keys and values of a concept become those of its guide, in closed form.

Gandikota et al., "Unified Concept Editing in Diffusion Models", WACV 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from conceptguard.errors import ArtifactError
from conceptguard.formats import base_weights_of, read_artifact
from conceptguard.making.task import Learned, Opens, Task
from conceptguard.making.templates import check_window, encode_all, fill, through
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.lowrank import LayerIndex, Terms

from .solve import Rows, solve

if TYPE_CHECKING:
    from conceptguard.concept import Concept
    from conceptguard.host import Host

Tokens = Literal["tail", "last"]


class UCEMakeSettings(Settings):
    """How an edit is solved.

    lamb: pull towards the old weights [0.5 in the authors' code]
    erase_scale, preserve_scale: weights of erased and of kept rows [1 and 1]
    tokens: "tail", from the concept's last token to the end of padding, since a causal encoder carries the concept on
        [the authors' first code]; "last", that token alone [their code of 2025]
    templates: what the concept's prompts are put into, {} or with an article {a} [the bare prompt]
    """

    lamb: float = Field(default=0.5, gt=0)
    erase_scale: float = Field(default=1.0, gt=0)
    preserve_scale: float = Field(default=1.0, ge=0)
    tokens: Tokens = "tail"
    templates: list[str] = ["{}"]


class UCE(Method):
    """Pictures: a solved edit of what the model reads of a prompt; made in seconds, without training.

    A closed-form edit as low-rank terms, gated by the prompt unless the policy says ``gate: always``.
    """

    name = "uce"
    MakeSettings = UCEMakeSettings

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """The edit's terms on every attn2.to_k and attn2.to_v."""
        assert self.artifact is not None
        factors = read_artifact(self.artifact, layers, base_weights=base_weights_of(layers))
        return Terms(self, factors, self.gate())

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Solve an edit: ``shared.down`` and one ``<layer>.up`` per layer. The concept is mapped to its replacement, or
        to nothing. Raises ArtifactError when there is no solution.
        """
        s, concept = task.settings, task.concept
        task.check(s.templates)
        weights = cross_attention_weights(task.host.layers())
        filled = [(t, p) for p in concept.prompts for t in s.templates]
        own = [fill(t, p) for t, p in filled]
        kept = list(dict.fromkeys(fill(t, p) for p in task.preserve for t in s.templates))
        check_window(task.host, [*own, *kept])
        rows = _rows(task.host, concept, filled, kept, s.tokens)
        down, ups = solve(weights, rows, s.lamb, s.erase_scale, s.preserve_scale)
        tensors = {"shared.down": down.float(), **{f"{name}.up": up.float() for name, up in ups.items()}}
        return Learned(tensors, task.made(rank=len(down)), Opens(own, kept))


def cross_attention_weights(layers: LayerIndex) -> dict[str, Tensor]:
    """The weights [out, d] of every attn2.to_k and attn2.to_v of the UNet. Raises ArtifactError when there are none."""
    weight = base_weights_of(layers)
    names = [n for n in layers if n.startswith("unet.") and n.endswith((".attn2.to_k", ".attn2.to_v"))]
    if not names:
        raise ArtifactError("this model has no cross-attention layers attn2.to_k and attn2.to_v: UCE cannot edit it")
    return {name: weight(name) for name in names}


def erased_rows(
    own: Sequence[Tensor], guides: Sequence[Tensor], places: Sequence[tuple[int, int]], tokens: Tokens
) -> tuple[Tensor, Tensor]:
    """Pairs of rows to erase and to be guided by, both [rows, d].

    own, guides: encodings [tokens, d], text by text; places: where the last token of the concept is, and that of its
    guide (a guide of no words stands at the token before).
    """
    erased, guided = [], []
    for here, there, (i, j) in zip(own, guides, places):
        n = 1 if tokens == "last" else len(here) - max(i, j)
        erased.append(here[i : i + n])
        guided.append(there[j : j + n])
    return torch.cat(erased), torch.cat(guided)


def kept_rows(kept: Sequence[Tensor], lengths: Sequence[int], tokens: Tokens) -> Tensor:
    """Rows that must stay, [rows, d]: of each text all, or only its last token. lengths: tokens without specials."""
    return torch.cat([e if tokens == "tail" else e[n : n + 1] for e, n in zip(kept, lengths)])


def _rows(host: Host, concept: Concept, filled: list[tuple[str, str]], kept: list[str], tokens: Tokens) -> Rows:
    def ends(prompts: list[str]) -> list[int]:
        return [len(ids) for ids in host.tokens([through(t, p) for (t, _), p in zip(filled, prompts)])]

    guide = [concept.replacement] * len(filled)
    own_embeds = encode_all(host, [fill(t, p) for t, p in filled]).embeds
    guide_embeds = encode_all(host, [fill(t, g) for (t, _), g in zip(filled, guide)]).embeds
    places = list(zip(ends([p for _, p in filled]), ends(guide)))
    erased, guided = erased_rows(list(own_embeds), list(guide_embeds), places, tokens)
    # Edits of whole tails reach the padding that the empty prompt has too, so it is always held.
    texts = ["", *kept] if tokens == "tail" else kept
    if not texts:
        return Rows(erased, guided, erased[:0])
    held = encode_all(host, texts)
    return Rows(erased, guided, kept_rows(list(held.embeds), [len(ids) for ids in held.ids], tokens))
