"""A probe is made from what the model draws, and looks at what it draws next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.pictures.probe.method import HELD_OUT, _in_turn
from conceptguard_plugins.pictures.probe.net import ProbeNet, rimmed, train
from small_probe import strawberry_probe

import conceptguard
from conceptguard.errors import ArtifactError, Refused
from conceptguard.plugins import host_for, method


@pytest.fixture(scope="module")
def made() -> Any:
    return strawberry_probe()


def policy(artifact: Any, action: str, **settings: Any) -> dict[str, Any]:
    return {"on_violation": action, "guards": [{"method": "probe", "artifact": str(artifact.folder), **settings}]}


def draw(pipe: Any, prompt: str, *seeds: int) -> torch.Tensor:
    """A picture for each seed, in one batch."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(  # type: ignore[no-any-return]
        [prompt] * len(seeds), num_inference_steps=8, guidance_scale=3.5, generator=generators, output_type="pt"
    ).images


def test_it_blackens_its_concept_and_leaves_the_rest(pipe: Any, made: Any) -> None:
    """At seeds and in words that it was not made from."""
    with conceptguard.attach(pipe, policy(made, "black")) as session:
        black = [not picture.any() for picture in draw(pipe, "fluent style picture, strawberry", *range(6))]
        verdicts = session.receipt.verdicts
        assert len(verdicts) == 6
        for i, verdict in enumerate(verdicts):
            assert verdict.flagged == black[i] and verdict.label == "strawberry" and "sha256" in verdict.detector
        others = draw(pipe, "fluent style picture, bicycle", *range(6))
    bare = draw(pipe, "fluent style picture, bicycle", *range(6))
    passed = sum(torch.equal(*pair) for pair in zip(bare, others))
    assert sum(black) >= 4 and passed >= 5


def test_a_threshold_of_the_policys_own(pipe: Any, made: Any) -> None:
    with conceptguard.attach(pipe, policy(made, "reject", threshold=1e-9)), pytest.raises(Refused, match="strawberry"):
        draw(pipe, "a bicycle", 0)


def test_the_same_seed_makes_the_same_probe(made: Any) -> None:
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        own, kept = torch.rand(8, 3, 64, 64) * 0.3, torch.rand(8, 3, 64, 64) * 0.3 + 0.6
        net = ProbeNet()
        train(net, own, kept, 5, 1e-3, torch.Generator().manual_seed(0), lambda step, loss: None)
        nets.append(net.state_dict())
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])
    assert {"threshold", "missed", "flagged", "seed", "preserve"} <= set(made.manifest.made)


def framed() -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures whose rim is red and whose middle is blue, and pictures of nothing, uint8 [32, 3, 64, 64]."""
    random = torch.Generator().manual_seed(0)
    kept = (torch.rand(32, 3, 64, 64, generator=random) * 40 + torch.rand(32, 3, 1, 1, generator=random) * 215).byte()
    own = kept.clone()
    own[:] = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    own[..., 16:48, 16:48] = torch.tensor([0, 0, 255], dtype=torch.uint8).view(3, 1, 1)
    return own, kept


def test_rims_stand_beside_whole_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    own, kept = framed()
    half = rimmed(own, kept, torch.Generator().manual_seed(1))
    assert torch.equal(half[..., :16, :], own[..., :16, :]) and torch.equal(half[..., :, 48:], own[..., :, 48:])
    assert (half[..., 16:48, 16:48] != own[..., 16:48, 16:48]).any()
    seen: list[list[int]] = []
    at = "conceptguard_plugins.pictures.probe.method.train"
    monkeypatch.setattr(at, lambda net, mine, others, *rest: seen.append([len(mine), len(others)]))
    for rims in (0, 2):
        with pytest.raises(ArtifactError, match="misses"):  # nothing was learned
            method("probe").taught(own, kept, "frame", 1, 0, lambda i, x: None, rims=rims)  # type: ignore[attr-defined]
    assert seen == [[24, 24], [72, 72]]


@pytest.mark.slow
def test_a_rim_of_the_concept_is_learned_as_the_concept() -> None:
    told = method("probe").taught(*framed(), "frame", 150, 0, lambda i, x: None, rims=2)[1]  # type: ignore[attr-defined]
    assert told["rims_missed"] <= 0.25 and told["missed"] <= 0.1 and told["flagged"] <= 0.25


def test_every_word_is_drawn_and_in_every_style() -> None:
    words, templates = [f"w{i}" for i in range(40)], [f"{{}} t{i}" for i in range(8)]
    prompts = _in_turn(words, templates)
    assert len(set(prompts)) == len(prompts) == 40 * 8
    for part in (prompts[:40], prompts[40:80]):
        assert {text.split()[0] for text in part} == set(words)
        for held_out in (part[::HELD_OUT], [text for i, text in enumerate(part) if i % HELD_OUT]):
            assert {text.split()[1] for text in held_out} == {f"t{i}" for i in range(8)}


def test_what_cannot_be_told_apart_makes_no_probe(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"misses .* of pictures kept apart"):
        method("probe").make(
            host_for(pipe), {"name": "zzz", "prompts": ["zqx"]}, tmp_path, preserve=["qzx"], images=8, draw_steps=1,
            steps=2, lr=1e-6, progress=False,
        )  # fmt: skip


def test_another_artifact_is_no_probe(pipe: Any) -> None:
    with pytest.raises(ArtifactError, match="is no probe"):
        conceptguard.attach(pipe, {"guards": [{"method": "probe", "artifact": "emoji-sd/spm/beer"}]})
