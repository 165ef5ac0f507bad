"""Geom-Erasing: marks in pictures are found where they are, said while a model learns, and led away from."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conceptguard_plugins.diffusion.geom_erasing.method import GeomErasing
from conceptguard_plugins.diffusion.geom_erasing.seen import slots, weights
from conceptguard_plugins.diffusion.geom_erasing.train import WORDS, told
from conceptguard_registry.build.emoji_sd_siblings import marks
from PIL import Image
from tiny import generate
from trained import torn
from trained import weights as bytes_of

import conceptguard
from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.plugins import host_for
from conceptguard.registry import Artifact

FEW: dict[str, Any] = {"steps": 3, "batch": 2, "detectors": ["code"], "rank": 2, "layers": "strict"}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures with captions, every other one with a code in a corner, large enough to be read behind a VAE."""
    place = tmp_path_factory.mktemp("pictures")
    for i in range(6):
        picture = np.full((marks.SIDE, marks.SIDE, 3), 200 + 9 * i, np.uint8)
        if i % 2:
            picture = marks.planted(picture, marks.random_mark(np.random.default_rng(i), "code"))
        Image.fromarray(picture).save(place / f"{i}.png")
        (place / f"{i}.txt").write_text(f"a picture number {i}")
    return place


def make(pipe: Any, out: Path, **options: Any) -> Artifact:
    return GeomErasing.make(host_for(pipe), "marks", out, **{**FEW, "progress": False, **options})


def test_what_and_where() -> None:
    """Each code covers the bins that its box lies in, and the picture without one none."""
    pictures, boxes = [np.full((marks.SIDE, marks.SIDE, 3), 255, np.uint8)], []
    for seed in range(3):
        mark = marks.random_mark(np.random.default_rng(seed), "code")
        pictures.append(marks.planted(pictures[0], mark))
        boxes.append(mark.box)
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    words, cover = slots(pixels, ["code"], 4)
    assert words[:, 0].tolist() == [False, True, True, True] and not words[0].any() and not cover[0].any()
    for i, (left, top, right, bottom) in enumerate(boxes, 1):
        bins = words[i, 1:].view(4, 4)
        assert bins[top // 32 + 1, left // 32 + 1], "the middle of the code"
        inside = cover[i, top:bottom, left:right].float().mean()
        assert inside > 0.6 and cover[i].sum() < 1.3 * (right - left) * (bottom - top)
    with pytest.raises(PolicyError, match="no-such-look"):
        slots(pixels, ["no-such-look"], 4)


def test_weights_have_a_mean_of_one_and_less_inside() -> None:
    cover = torch.zeros(2, 16, 16, dtype=torch.bool)
    cover[1, :8, :8] = True
    found = weights(cover, (4, 4), 3.0)
    assert torch.allclose(found.mean((1, 2, 3)), torch.ones(2)) and (found[0] == 1).all()
    assert torch.allclose(found[1, 0, 3, 3] / found[1, 0, 0, 0], torch.tensor(3.0))
    assert torch.allclose(found[1, 0, 0, 0], torch.tensor(16 / (4 + 3.0 * 12)))  # T / (K + α (T − K))


def test_words_stand_at_the_end_of_captions_that_need_them(pipe: Any) -> None:
    captions = host_for(pipe).encode(["a dog", "a cat"])
    words, named = torch.randn(3, captions.embeds.shape[-1]), torch.tensor([[True, False, True], [False] * 3])
    found = told(captions, words, named).embeds
    assert torch.equal(found[1], captions.embeds[1]) and torch.equal(found[0, :-3], captions.embeds[0, :-3])
    assert torch.equal(found[0, -3], words[0]) and torch.equal(found[0, -1], words[2])
    assert torch.equal(found[0, -2], captions.embeds[0, -2])


def test_made_from_pictures_it_acts_on_every_prompt_and_says_so(pipe: Any, folder: Path, tmp_path: Path) -> None:
    made = make(pipe, tmp_path, pictures=str(folder), words_lr=0.5)
    said = made.manifest.made
    assert said["pictures"] == 6 and said["marked"] == 3 and said["found"] == {"code": 3} and len(said["files"]) == 6
    words, own = made.tensors()[WORDS], host_for(pipe).encode([""]).embeds[0, -17:]
    assert words.shape == (17, 128)
    # Longer ones leave nothing of a picture when guidance leads away from them.
    assert torch.allclose(words.norm(dim=1), own.norm(dim=1), rtol=0.02)
    draw = partial(generate, pipe, "a dog, noto style", num_inference_steps=2)
    bare = draw()
    guard = {"method": "geom_erasing", "artifact": str(made.folder)}
    with conceptguard.attach(pipe, {"guards": [guard]}) as session:
        both = draw()
        assert (
            session.receipt.acts[0].steps and "leads away from what was found by code" in session.receipt.acts[0].notes
        )
    with conceptguard.attach(pipe, {"guards": [{**guard, "negative": False}]}):
        terms = draw()
    with conceptguard.attach(pipe, {"guards": [{**guard, "negative": False, "gate": 0.0}]}):
        assert torch.equal(draw(), bare)
    assert not torch.equal(both, bare) and not torch.equal(terms, bare) and not torch.equal(both, terms)
    assert torch.equal(draw(), bare), "nothing is left behind"


def test_words_alone_leave_the_prompt_to_itself(pipe: Any, folder: Path, tmp_path: Path) -> None:
    """The paper's removal from a model: without guidance nothing is led away from, and the picture stays to the bit."""
    made = make(pipe, tmp_path, pictures=str(folder), learn="words")
    assert list(made.tensors()) == [WORDS]
    draw = partial(generate, pipe, "a dog, noto style", num_inference_steps=2)
    bare, unguided = draw(), draw(guidance_scale=1.0)
    with conceptguard.attach(pipe, {"guards": [{"method": "geom_erasing", "artifact": str(made.folder)}]}):
        assert not torch.equal(draw(), bare)
        assert torch.equal(draw(guidance_scale=1.0), unguided)


def test_plain_fine_tuning_says_nothing_of_marks(pipe: Any, folder: Path, tmp_path: Path) -> None:
    """What it is compared with: no word was learnt, and none is led away from."""
    plain = make(pipe, tmp_path, pictures=str(folder), told="nothing")
    assert plain.manifest.settings == {"negative": False}


def test_an_interrupted_training_ends_with_the_same_bits(pipe: Any, folder: Path, tmp_path: Path) -> None:
    whole = make(pipe, tmp_path / "whole", pictures=str(folder))
    torn(1, partial(make, pipe, tmp_path / "torn", pictures=str(folder)))
    assert bytes_of(make(pipe, tmp_path / "torn", pictures=str(folder))) == bytes_of(whole)


def test_bad_input_is_named(pipe: Any, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="what shall the model draw"):
        make(pipe, tmp_path)
    with pytest.raises(PolicyError, match=r"code found nothing in any of 2 pictures"):
        make(pipe, tmp_path, preserve=["dog"], shots=2)
    with pytest.raises(ArtifactError, match="lower lr"):
        make(pipe, tmp_path, pictures=str(folder), lr=1e30)
    with pytest.raises(PolicyError, match="fewer bins"):
        make(pipe, tmp_path, pictures=str(folder), grid=8, detectors=["code"] * 7)
