"""UCE: the closed form on a real pipeline, its ranks, both token choices, what it keeps, its way out and back in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.uce import UCE
from random_artifacts import terms_of
from torch import Tensor, nn

import conceptguard
from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.formats import read_terms, read_weights_of, to_uce
from conceptguard.generation.conditioning import Encoded
from conceptguard.making.edits import Rows, solve, streams_of
from conceptguard.making.templates import fill, through
from conceptguard.plugins import host_for
from conceptguard.registry import Artifact
from conceptguard.runtime.encodings import EncodingCache
from conceptguard.runtime.lowrank import LayerIndex

BEER = {"name": "beer", "prompts": ["beer", "a glass of beer"], "replacement": "milk"}


def make(pipe: Any, out: Path, concept: Any = BEER, **options: Any) -> Artifact:
    return UCE.make(host_for(pipe), concept, out, **{"preserve": ["coffee"], **options})


def generate(pipe: Any, prompt: str | list[str]) -> Tensor:
    n = 1 if isinstance(prompt, str) else len(prompt)
    seeds = [torch.Generator().manual_seed(i) for i in range(n)]
    found: Tensor = pipe(prompt, num_inference_steps=2, generator=seeds, output_type="latent").images
    return found


def edited(pipe: Any, artifact: Artifact) -> dict[str, tuple[Tensor, Tensor]]:
    """Old and new weight of every edited layer, fp64."""
    terms = terms_of(artifact, pipe)
    old = {name: w.double() for name, w in streams_of(host_for(pipe))[0].weights.items()}
    assert set(terms) == set(old)
    return {n: (old[n], old[n] + f.scale * f.up.double() @ f.down.double()) for n, f in terms.items()}


@pytest.fixture(scope="module")
def last(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make(pipe, tmp_path_factory.mktemp("last"), tokens="last")


@pytest.fixture(scope="module")
def tail(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make(pipe, tmp_path_factory.mktemp("tail"))


def test_last_token_solves_equation_seven(pipe: Any, last: Artifact) -> None:
    """Every layer against the equation as printed, with a dense inverse."""
    own = host_for(pipe).encode(["beer", "a glass of beer", "milk", "coffee"])
    c, c2, g, p = (own.embeds[i, len(own.ids[i])].double() for i in range(4))
    m = 0.5 * torch.eye(len(c), dtype=torch.float64) + torch.outer(c, c) + torch.outer(c2, c2) + torch.outer(p, p)
    for old, new in edited(pipe, last).values():
        goal = 0.5 * old + torch.outer(old @ g, c + c2) + torch.outer(old @ p, p)
        torch.testing.assert_close(new, goal @ torch.linalg.inv(m), atol=1e-5, rtol=1e-4)


def test_ranks(pipe: Any, last: Artifact, tail: Artifact) -> None:
    """One rank per erased row, never more than the input is wide; both factors are stored once for all layers."""
    shapes = {k: tuple(t.shape) for k, t in last.tensors().items()}
    width = shapes["states.edit.down"][1]
    assert shapes == {"states.edit.down": (2, width), "states.edit.shift": (2, width)}
    terms = terms_of(last, pipe)
    assert all(len(f.down) == 2 and f.up.shape[1] == 2 for f in terms.values())
    assert len(terms) > 2 and all(name.endswith((".attn2.to_k", ".attn2.to_v")) for name in terms)
    assert tail.tensors()["states.edit.down"].shape[0] == min(width, tail.manifest.made["rank"]) <= width


def test_the_concept_goes_where_it_is_guided_and_the_rest_stays(pipe: Any, tail: Artifact, tmp_path: Path) -> None:
    host = host_for(pipe)
    rows = host.encode(["beer", "milk", "coffee"]).embeds.double()
    loose = edited(pipe, make(pipe, tmp_path, preserve=[], tokens="last", lamb=0.01))
    tight = edited(pipe, make(pipe, tmp_path, preserve=["coffee"], tokens="last", lamb=0.01))
    for name, (old, new) in edited(pipe, tail).items():
        beer, milk = rows[0, 1:], rows[1, 1:]
        assert (beer @ new.T - milk @ old.T).norm() < 0.5 * (beer @ old.T - milk @ old.T).norm()
        moved = [(rows[2, 1] @ (w[1] - w[0]).T).norm() for w in (loose[name], tight[name])]
        assert moved[1] < 0.2 * moved[0]


def test_gated_by_the_prompt_unless_always(pipe: Any, tail: Artifact) -> None:
    prompts = ["a red apple", "a picture of a beer"]
    bare = generate(pipe, prompts)
    with conceptguard.attach(pipe, {"guards": [{"method": "uce", "artifact": str(tail.folder)}]}) as guard:
        gated = generate(pipe, prompts)
        assert max(guard.receipt.acts[0].gates) == 1
    assert torch.equal(gated[0], bare[0]) and not torch.equal(gated[1], bare[1])
    with conceptguard.attach(pipe, {"guards": [{"method": "uce", "artifact": str(tail.folder), "gate": "always"}]}):
        always = generate(pipe, prompts)
    assert not torch.equal(always[0], bare[0])


def test_always_on_equals_edited_weights(pipe: Any, tail: Artifact) -> None:
    """Terms beside the layers and new weights in them are the same edit."""
    with conceptguard.attach(pipe, {"guards": [{"method": "uce", "artifact": str(tail.folder), "gate": "always"}]}):
        beside = generate(pipe, "a beer")
    layers = host_for(pipe).layers()
    old = {n: w.clone() for n, w in streams_of(host_for(pipe))[0].weights.items()}
    try:
        for name, (_, new) in edited(pipe, tail).items():
            layers[name].weight.data.copy_(new)
        within = generate(pipe, "a beer")
    finally:
        for name, w in old.items():
            layers[name].weight.data.copy_(w)
    assert not torch.allclose(within, generate(pipe, "a beer"), atol=1e-3)
    torch.testing.assert_close(beside, within, atol=1e-4, rtol=1e-4)


def test_exported_as_official_weights_and_read_again(pipe: Any, last: Artifact) -> None:
    layers = host_for(pipe).layers()
    terms = terms_of(last, pipe)
    tensors, metadata = to_uce(terms, read_weights_of(layers))
    assert all(k.endswith(".weight") and not k.startswith("unet.") for k in tensors)
    again = read_terms(tensors, metadata, layers, base_weights=read_weights_of(layers))
    for name, f in terms.items():
        torch.testing.assert_close(again[name].up @ again[name].down, f.up @ f.down, atol=1e-5, rtol=1e-3)
        assert len(again[name].down) <= len(f.down)


def test_templates_put_concept_and_guide_in_the_same_place(pipe: Any) -> None:
    assert fill("a picture of {a}, noto style", "apple") == "a picture of an apple, noto style"
    assert fill("{a}", "a man with a gun") == "a man with a gun"
    assert fill("a picture of {a}, noto style", "") == "a picture of, noto style"
    assert through("an icon of {} in blue", "beer mug") == "an icon of beer mug"
    host = host_for(pipe)
    ids = host.tokens(["an icon of beer mug in blue"])[0]
    assert host.tokens([through("an icon of {} in blue", "beer mug")])[0] == ids[:5]


class WideHost:
    """A host whose denoiser sees two encoders side by side, as SDXL's does."""

    name, target = "wide", type("Target", (), {"name": "wide"})()

    def __init__(self) -> None:
        block = nn.Module()
        block.attn2 = nn.Module()
        block.attn2.to_k, block.attn2.to_v = nn.Linear(48, 20, bias=False), nn.Linear(48, 20, bias=False)
        unet = nn.Module()
        unet.attentions = nn.ModuleList([block])
        self.unet = unet

    def layers(self) -> LayerIndex:
        return LayerIndex({"unet": self.unet})

    def weights(self) -> Callable[[str], Tensor]:
        return read_weights_of(self.layers())

    def tokens(self, texts: list[str]) -> list[list[int]]:
        return [[sum(map(ord, w)) for w in t.split()] for t in texts]

    def encoding_cache(self) -> EncodingCache:
        return EncodingCache()

    def encoders(self) -> list[Any]:
        def ids(texts: list[str], whole: bool = False) -> list[list[int]]:
            return self.tokens(texts)

        return [
            SimpleNamespace(name="both", begins=True, tokens=slice(0, None), width=slice(0, 48), window=14, ids=ids)
        ]

    def encode(self, texts: list[str]) -> Encoded:
        rows = []
        for text in texts:
            ids = [1, *self.tokens([text])[0], 2]
            ids += [3] * (16 - len(ids))
            parts = [torch.randn(48, generator=torch.Generator().manual_seed(i + 1000 * n)) for n, i in enumerate(ids)]
            rows.append(torch.stack(parts))
        return Encoded(torch.stack(rows), self.tokens(texts), torch.zeros(len(texts), 16))

    read = encode

    def fingerprint(self) -> str:
        return "arch:0123456789abcdef"


def test_two_encoders_side_by_side(tmp_path: Path) -> None:
    """SDXL's 2048 columns are one encoding like any other: all of them are edited."""
    artifact = UCE.make(WideHost(), "cat", tmp_path, tokens="last")
    tensors = artifact.tensors()
    assert tensors["states.edit.down"].shape == (1, 48)
    assert artifact.ref == "wide/uce/cat" and (tensors["states.edit.down"] != 0).all()


@pytest.mark.parametrize(
    ("concept", "options", "says"),
    [
        ({"name": "beer", "prompts": []}, {}, "prompts"),
        (BEER, {"preserve": ["cold beer"]}, "cannot be kept and erased"),
        (BEER, {"tokens": "first"}, "tokens"),
        (BEER, {"lamb": 0}, "lamb"),
        (BEER, {"lam": 1}, "did you mean 'lamb'"),
    ],
)
def test_bad_input(pipe: Any, tmp_path: Path, concept: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(PolicyError, match=says) as raised:
        make(pipe, tmp_path, concept, **options)
    assert "\n" not in str(raised.value)


def test_no_solution_is_said(pipe: Any) -> None:
    rows = Rows(torch.full((1, 4), float("nan")), torch.zeros(1, 4), torch.zeros(0, 4))
    with pytest.raises(ArtifactError, match="raise it"):
        solve(rows, 0.5)
