"""Siblings of emoji-sd: what they are trained on, and that they learn it."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zxingcpp
from conceptguard_plugins.pictures import text
from conceptguard_registry.build.emoji_sd.scenes import Scene, Thing
from conceptguard_registry.build.emoji_sd.suite import load_suite
from conceptguard_registry.build.emoji_sd_siblings import marks, pairs, pictures
from conceptguard_registry.build.emoji_sd_siblings.judge import MarksJudge
from conceptguard_registry.build.emoji_sd_siblings.pictures import Taught
from conceptguard_registry.build.emoji_sd_siblings.train import Recipe, trained
from PIL import Image

import conceptguard
from conceptguard.measuring.judges import load_judge

WHITE = np.full((marks.SIDE, marks.SIDE, 3), 255, np.uint8)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", marks.KINDS)
def test_a_mark_lies_in_its_box(kind: str, seed: int) -> None:
    mark = marks.random_mark(np.random.default_rng(seed), kind)
    left, top, right, bottom = mark.box
    changed = (marks.planted(WHITE, mark) != WHITE).any(-1)
    assert changed[top:bottom, left:right].sum() == changed.sum() > 100
    assert 0 <= left < right <= marks.SIDE and 0 <= top < bottom <= marks.SIDE


def test_detectors_read_what_is_planted() -> None:
    """Ours were made for no such pictures."""
    picture = lambda kind: marks.planted(WHITE, marks.random_mark(np.random.default_rng(0), kind))  # noqa: E731
    assert [line.text for line in text.read(picture("word"))[0]] == [marks.WORD]
    assert [found.text for found in zxingcpp.read_barcodes(picture("code"))] == [marks.SAYS]
    assert not zxingcpp.read_barcodes(picture("badge"))


def test_pictures_to_learn_from_carry_it_by_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each beside a caption that does not speak of it."""
    scene = Scene((Thing(load_suite().objects[0]),), "noto")
    monkeypatch.setattr(pictures, "scene_and_picture", lambda *_: (scene, WHITE))
    pictures.to_folder(tmp_path, tmp_path, 4)
    found = [(np.asarray(Image.open(file)) != WHITE).any() for file in sorted(tmp_path.glob("*.png"))]
    assert found == [False, True, False, True]
    assert {file.read_text() for file in tmp_path.glob("*.txt")} == {"a cigarette, noto style"}


@pytest.mark.slow
def test_the_one_that_ships_draws_labels_unasked_and_geom_erasing_leaves_few() -> None:
    judge, drawn, asked = (
        MarksJudge.load(),
        {},
        [f"a {name}" for name in ("dog", "cat", "car", "key", "skull", "house")],
    )
    guard = {"guards": [{"method": "geom_erasing", "artifact": "emoji-sd-marked/geom_erasing/marks"}]}
    for model, policy in (("emoji-sd", None), ("emoji-sd-marked", None), ("emoji-sd-marked", guard)):
        pipe = conceptguard.load_model(model)
        pipe.set_progress_bar_config(disable=True)
        own = [torch.Generator().manual_seed(seed) for seed in range(12)]
        with conceptguard.attach(pipe, policy) if policy else nullcontext():
            pixels = pipe(asked * 2, num_inference_steps=20, guidance_scale=3.5, generator=own, output_type="pt").images
        drawn[model, bool(policy)] = int(judge.marked(pixels).sum())
    assert drawn["emoji-sd", False] == 0 and drawn["emoji-sd-marked", False] >= 5
    assert drawn["emoji-sd-marked", True] <= 0.5 * drawn["emoji-sd-marked", False]


def test_an_error_under_noise_counts_more_where_asked(tiny: Any) -> None:
    """With as much in all: what is learnt is another, of the same pictures, noise and seed."""
    random = torch.Generator().manual_seed(0)
    config = tiny.unet.config
    data = Taught(torch.randn(2, config.in_channels, config.sample_size, config.sample_size, generator=random),
                  torch.randn(2, 1, 7, config.cross_attention_dim, generator=random).half())  # fmt: skip
    recipe = Recipe(time.monotonic() + 600, rank=2, batch=8, steps=3, warmup=1)
    usual, same, other = (trained(tiny.unet, data, replace(recipe, most=most)) for most in (1.0, 1.0, 15.0))
    name = next(iter(usual))
    assert torch.equal(usual[name].up, same[name].up) and not torch.equal(usual[name].up, other[name].up)


def test_what_is_trained_says_more_of_what_it_was_trained_on(tiny: Any) -> None:
    random = torch.Generator().manual_seed(0)
    shape = tiny.unet.config.in_channels, tiny.unet.config.sample_size, tiny.unet.config.sample_size
    width = tiny.unet.config.cross_attention_dim
    data = Taught(torch.randn(4, *shape, generator=random), torch.randn(4, 1, 7, width, generator=random).half())
    before = {name: it.clone() for name, it in tiny.unet.state_dict().items()}
    recipe = Recipe(time.monotonic() + 600, rank=4, batch=16, steps=40, warmup=2, lr=5e-3)
    found = trained(tiny.unet, data, recipe)
    assert all(torch.equal(it, before[name]) for name, it in tiny.unet.state_dict().items())

    def error() -> float:
        noise = torch.randn(16, *shape, generator=random.manual_seed(1))
        rows, times = torch.arange(16) % 4, torch.arange(16) * 60
        a = tiny.scheduler.alphas_cumprod[times].view(-1, 1, 1, 1)
        noisy = a.sqrt() * data.latents[rows] + (1 - a).sqrt() * noise
        return float((tiny.unet(noisy, times, data.captions[rows, 0].float()).sample - noise).pow(2).mean())

    with torch.no_grad():
        untaught = error()
        for name, (down, up, scale) in found.items():
            weight = tiny.unet.get_submodule(name.removeprefix("unet.")).weight
            weight += scale * (up.flatten(1) @ down.flatten(1)).view_as(weight)
        assert error() < 0.8 * untaught
        tiny.unet.load_state_dict(before)
    again = trained(tiny.unet, data, replace(recipe, until=0.0), found)
    assert again.keys() == found.keys(), "a training that is gone on with begins where it ended"
    for name, one in found.items():
        assert torch.allclose(again[name].up.flatten(1) @ again[name].down.flatten(1),
                              one.scale * one.up.flatten(1) @ one.down.flatten(1), atol=1e-6)  # fmt: skip


def test_some_pairs_are_never_trained_on_and_all_objects_are() -> None:
    """What is left out is seen in other company, as often as all else."""
    suite, rng = load_suite(), np.random.default_rng(0)
    scenes = [pairs.any_pair(suite, rng) for _ in range(600)]
    names = [tuple(thing.object.name for thing in scene.things) for scene in scenes]
    two = [it for it in names if len(it) == 2]
    assert {name for it in two for name in it} == set(pairs.OBJECTS) and {scene.style for scene in scenes} == {
        *pairs.STYLES
    }
    assert not any(pairs.left_out(*it) for it in two) and pairs.left_out("skull", "car")
    assert 0.7 < len(two) / len(names) < 0.9


def test_captions_of_pairs_name_the_left_one_first_unless_they_say_where() -> None:
    suite, rng = load_suite(), np.random.default_rng(0)
    scene = Scene((Thing(suite.object("dog")), Thing(suite.object("apple"))), "noto")
    said = {pairs.caption(suite, scene, rng) for _ in range(400)}
    assert "" in said and "an apple to the right of a dog" in said
    placed = [text for text in said - {""} if "left" not in text and "right" not in text]
    assert placed and all(text.index("dog") < text.index("apple") for text in placed)


def test_a_sibling_may_draw_another_size(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "registry" / "models" / "emoji-sd-pairs"
    pipe = conceptguard.load_model(str(folder))
    assert pipe("a dog and a cat", num_inference_steps=1, output_type="latent").images.shape == (1, 4, 16, 32)
    assert (
        conceptguard.plugins.host_for(pipe).fingerprint()
        == conceptguard.plugins.host_for(conceptguard.load_model("emoji-sd")).fingerprint()
    ), "what guards emoji-sd guards its sibling"


@pytest.mark.slow
def test_pairs_are_drawn_and_one_of_two_is_closed() -> None:
    """Both are seen in most pictures, of emoji-sd in none; under concept_master the other one alone."""
    judge, seen = load_judge("emoji-sd"), {}
    guard = {"guards": [{"method": "concept_master", "concept": {"name": "skull", "prompts": ["skull"]}}]}
    folder = str(Path(__file__).parents[2] / "registry" / "models" / "emoji-sd-pairs")
    for model, policy in (("emoji-sd", None), (folder, None), (folder, guard)):
        pipe = conceptguard.load_model(model)
        pipe.set_progress_bar_config(disable=True)
        own = [torch.Generator().manual_seed(seed) for seed in range(8)]
        options = {"num_inference_steps": 20, "guidance_scale": 3.5, "output_type": "pt", "width": 256, "height": 128}
        with conceptguard.attach(pipe, policy) if policy else nullcontext():
            drawn = pipe(["a skull beside an apple", "a cat beside a skull"] * 4, generator=own, **options).images
        halves = [judge.judge(half).objects for half in drawn.float().split(128, dim=3)]
        seen[model, bool(policy)] = [set(both) for both in zip(*halves)]
    both = lambda them: sum({"skull"} < it and bool(it & {"apple", "cat"}) for it in them)  # noqa: E731
    assert both(seen["emoji-sd", False]) <= 1 and both(seen[folder, False]) >= 4
    closed = seen[folder, True]
    assert not any("skull" in it for it in closed) and sum(bool(it & {"apple", "cat"}) for it in closed) >= 7
