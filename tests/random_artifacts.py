"""Small random artifacts in published formats: they erase nothing, but they fit, open and change the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from conceptguard import Method, hookimpl
from conceptguard.formats import read_terms, to_kohya, write_edit
from conceptguard.making.edits import streams_of
from conceptguard.plugins import host_for
from conceptguard.registry import write_artifact
from conceptguard.registry.fingerprint import fingerprint
from conceptguard.runtime.lowrank import Factors, LayerIndex, Terms

ATTENTION = ("attn1.", "attn2.", "proj_in", "proj_out", "ff.net")


def layers_of(pipe: Any) -> LayerIndex:
    """The layers of a pipeline under canonical names."""
    return host_for(pipe).layers()


def terms_of(made: Any, pipe: Any) -> dict[str, Factors]:
    """What something learnt or read adds beside the layers of a pipeline, by canonical name."""
    metadata = made.metadata() if callable(made.metadata) else made.metadata or {}
    tensors = made.tensors() if callable(made.tensors) else made.tensors
    host = host_for(pipe)
    return read_terms(tensors, metadata, host.layers(), base_weights=host.weights())


def random_factors(shape: Sequence[int], rank: int, size: float, generator: torch.Generator) -> Factors:
    """One term for a layer of this weight shape, about ``size`` times as large as its input."""
    down = torch.randn(rank, *shape[1:], generator=generator) / torch.tensor(shape[1:]).prod().sqrt()
    up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=generator) * size
    return Factors(down, up, 0.5)


def random_terms(
    pipe: Any,
    *,
    names: Sequence[str] = ATTENTION,
    component: str = "unet",
    rank: int = 1,
    size: float = 0.5,
    seed: int = 0,
) -> dict[str, Factors]:
    """Terms beside every layer of a component whose name contains one of ``names``."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: random_factors(shape, rank, size, generator)
        for name, shape in layers_of(pipe).shapes().items()
        if name.startswith(component + ".") and any(part in name for part in names)
    }


def write_terms(
    folder: Path,
    pipe: Any,
    terms: dict[str, Factors],
    *,
    method: str = "spm",
    concept: str = "cigarette",
    gate: tuple[float, float] | None = (0.9, 0.95),
) -> Path:
    """An artifact folder in kohya's keys, which are SPM's own."""
    tensors, metadata = to_kohya(terms)
    fields = {
        "method": method,
        "concept": {"name": concept, "prompts": [concept, f"a {concept}"]},
        "base": {"family": "test", "fingerprint": fingerprint(layers_of(pipe).shapes())},
        "gate": dict(zip(("floor", "full"), gate)) if gate else None,
    }
    metadata = {**metadata, "prompts": concept, "rank": "1", "alpha": "1.0"}
    write_artifact(folder, fields, tensors, metadata=metadata, filename=f"{concept}_last.safetensors")
    return folder


def membrane(folder: Path, pipe: Any, concept: str = "cigarette", **options: Any) -> dict[str, Any]:
    """A guard for a policy: a random SPM membrane on every attention layer of the UNet."""
    terms = random_terms(pipe, **options)
    return {"method": "spm", "artifact": str(write_terms(folder / concept, pipe, terms, concept=concept))}


def random_edit(folder: Path, pipe: Any, concept: str = "cigarette", method: str = "uce") -> dict[str, Any]:
    """A guard for a policy: a random rank-2 edit of what every layer reads of a prompt, one input side for each
    stream.
    """
    generator, edits = torch.Generator().manual_seed(0), {}
    for stream in streams_of(host_for(pipe)):
        weight = next(iter(stream.weights.values()))
        down = random_factors((1, weight.shape[1]), 2, 1.0, generator).down
        # As large as makes every layer's ``up`` about one half.
        shift = torch.randn(down.shape, generator=generator) * 0.5 / weight.float().pow(2).sum(1).mean().sqrt()
        edits[stream.kind] = (down, shift, stream.weights)
    tensors, metadata = write_edit(edits)
    fields = {
        "method": method,
        "concept": {"name": concept, "prompts": [concept, f"a {concept}"]},
        "base": {"family": "test", "fingerprint": fingerprint(layers_of(pipe).shapes())},
        "gate": {"floor": 0.9, "full": 0.95},
    }
    write_artifact(folder, fields, tensors, metadata=metadata)
    return {"method": method, "artifact": str(folder)}


class RandomTerms(Method):
    """Rank-2 terms beside every query projection of the denoiser, opened by prompt."""

    name = "random-terms"
    needs = "concept"

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        random = torch.Generator().manual_seed(0)
        own = f"{self.host.denoiser_name}."
        names = [name for name in layers.shapes() if name.startswith(own) and name.endswith("to_q")]
        made = {}
        for name in names:
            out, width = layers.shapes()[name]
            made[name] = Factors(torch.randn(2, width, generator=random), torch.randn(out, 2, generator=random))
        return Terms(self, made, self.gate())
