"""Terms beside the layers of text encoders while they are learnt, and as an artifact keeps them.

A text encoder that forgot is W + ΔW in some of its layers. What is learnt is ΔW, whole or of a rank; the encoder's own
weights are never touched, and the same low-rank runtime runs it that will run it under a guard.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..errors import ArtifactError
from ..generation.conditioning import Encoded
from ..runtime.banks import Banks
from ..runtime.gates import Gate
from ..runtime.lowrank import Factors, LayerIndex, Terms

if TYPE_CHECKING:
    from ..host import Host
    from ..protocols import TextEncoder

Parts = Literal["mlp", "attention", "mlp and last attention", "all"]
_LAYER = re.compile(r"\.layers\.(?P<number>\d+)\.(?P<part>mlp\.fc[12]|self_attn\.(?:q|k|v|out)_proj)$")


def clip_encoders(host: Host, method: str) -> Sequence[TextEncoder]:
    """The host's text encoders. Raises ArtifactError unless all are CLIP: others cannot be gated where they run."""
    encoders = host.encoders()
    other = next((encoder for encoder in encoders if not encoder.begins), None)
    if other is not None:
        raise ArtifactError(
            f"{other.name} of {host.name} is no CLIP text encoder, and {method} has terms beside those alone: use uce"
        )
    return encoders


def layers_beside(layers: LayerIndex, encoders: Sequence[TextEncoder], parts: Parts) -> list[str]:
    """Names of the encoders' linear layers that ``parts`` means, of those blocks that the denoiser hears.

    Raises ArtifactError when there are none.
    """
    found = []
    for encoder in encoders:
        for name in layers:
            match = _LAYER.search(name)
            if match is None or name.split(".", 1)[0] != encoder.name or int(match["number"]) >= encoder.heard:
                continue
            mlp, last = match["part"].startswith("mlp"), int(match["number"]) == encoder.heard - 1
            if parts == "all" or mlp == (parts != "attention") or (parts == "mlp and last attention" and last):
                found.append(name)
    if not found:
        raise ArtifactError("this model's text encoders have no layers mlp.fc1, self_attn.q_proj, ... of CLIP")
    return found


def conditions(
    encoders: Sequence[TextEncoder], texts: Sequence[str], empty: Encoded, prefixes: Sequence[Tensor] | None = None
) -> Encoded:
    """Texts as the denoiser hears them, with gradients. empty: the empty text, by which what is of no encoder is as
    long as it is to be; prefixes: input vectors [k, hidden] before every text, one tensor for each encoder; texts are
    cut where they stand in the way."""
    embeds, pools = torch.zeros(len(texts), *empty.embeds.shape[1:], device=empty.embeds.device), []
    ids: list[list[int]] = []
    for n, encoder in enumerate(encoders):
        prefix = prefixes[n] if prefixes else None
        room = encoder.window - (0 if prefix is None else len(prefix))
        own = [row[:room] for row in encoder.ids(texts)]
        ids = ids or own
        found, pooled = encoder.differentiable(own, prefix)
        if found is not None:
            embeds[:, encoder.tokens, encoder.width] = found.to(embeds)
        pools += [pooled] if pooled is not None else []
    return Encoded(embeds, ids, torch.cat(pools, -1) if pools else None)


class TermsInTraining:
    """Low-rank or whole changes of layers, parameters of an optimiser while they are attached.

    rank: of each; None learns whole matrices, of which one factor is the identity
    """

    def __init__(self, layers: LayerIndex, names: Sequence[str], rank: int | None, random: torch.Generator):
        self._layers, self.rank = layers, rank
        self._start: dict[str, Factors] = {}
        for name, (out, into) in ((name, layers.shapes()[name]) for name in names):
            if rank is None:
                self._start[name] = Factors(torch.eye(into), torch.zeros(out, into))
            else:
                down = (torch.rand(rank, into, generator=random) * 2 - 1) / math.sqrt(into)
                self._start[name] = Factors(down, torch.zeros(out, rank))
        self.banks = Banks(layers, [], self)

    @contextmanager
    def attached(self, encoders: Sequence[TextEncoder]) -> Iterator[list[Tensor]]:
        """Beside the frozen encoders, shut; gives the parameters, float32 whatever the model computes in."""
        with ExitStack() as stack:
            for encoder in encoders:
                stack.enter_context(encoder.frozen())
            self.banks = Banks(self._layers, [Terms(self, self._start, Gate())], self)
            stack.callback(self.banks.detach)
            for name, bank in self.banks.banks.items():
                down, up = self._start[name].down, self._start[name].up.T.contiguous()
                bank.down, bank.up = (factor.to(bank.down.device, torch.float32) for factor in (down, up))
            learnt = [(bank.up,) if self.rank is None else (bank.down, bank.up) for bank in self.banks.banks.values()]
            yield [factor.requires_grad_() for pair in learnt for factor in pair]

    def open(self, rows: int) -> None:
        """For the next call of the encoders, which has so many rows; 0 shuts them."""
        for prefix in self.banks.prefixes():
            self.banks.set(prefix, torch.ones(rows, 1) if rows else None)

    def changes(self) -> dict[str, Factors]:
        """What was learnt so far, on the CPU. Before they are detached."""
        return {
            name: Factors(bank.down.detach().cpu().clone(), bank.up.detach().cpu().T.contiguous())
            for name, bank in self.banks.banks.items()
        }


def cut_to_rank(terms: Mapping[str, Factors], rank: int | None) -> tuple[dict[str, Factors], float]:
    """Terms of at most a rank, and the truncation error: how much of all changes together is lost, relative, by the
    Frobenius norm (Eckart and Young: no terms of that rank lose less). None keeps everything."""
    found, lost, whole = {}, 0.0, 0.0
    for name, (down, up, scale) in terms.items():
        own = down.shape[0]
        if rank is None or own <= rank:
            found[name], error = Factors(down, up, scale), 0.0
            size = float((scale * up.double() @ down.double()).pow(2).sum())
        else:
            left, values, right = torch.linalg.svd(scale * up.double() @ down.double(), full_matrices=False)
            found[name] = Factors(right[:rank].float(), (left[:, :rank] * values[:rank]).float())
            size, error = float(values.pow(2).sum()), float(values[rank:].pow(2).sum())
        lost, whole = lost + error, whole + size
    return found, math.sqrt(lost / whole) if whole else 0.0
