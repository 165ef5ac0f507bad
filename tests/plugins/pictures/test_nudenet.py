"""The nudity check, with its real detector, on faces: what it is made to find no test suite should hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from paths import DATA
from PIL import Image

import conceptguard
from conceptguard.errors import PolicyError
from conceptguard.sessions.session import Session

FACES = ["FACE_FEMALE", "FACE_MALE"]


@pytest.fixture(scope="module")
def portrait() -> torch.Tensor:
    """[3, 192, 192] in [0, 1]."""
    image = Image.open(DATA / "portrait.jpg").convert("RGB")
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255


def guard(tiny: Any, action: str = "flag", **settings: Any) -> Session:
    policy = {"on_violation": action, "guards": [{"method": "nudenet", **settings}]}
    return conceptguard.attach(tiny, policy)


def test_flags_what_it_sees_and_only_that(tiny: Any, portrait: torch.Tensor) -> None:
    images = torch.stack([torch.ones_like(portrait), portrait, portrait.flip(-1)])
    with guard(tiny, "blur", labels=FACES) as session:
        after = session.check_image(images, [None] * 3)
        nothing, face, mirrored = session.receipt.verdicts
        assert not nothing.flagged and nothing.score == 0 and torch.equal(after[0], images[0])
        assert face.flagged and face.label in FACES and face.score > 0.45
        ((left, top, right, bottom),) = face.boxes
        assert 0 <= left < 96 < right <= 192 and 0 <= top < 96 < bottom <= 192
        outside = after[1] == images[1]
        outside[:, top:bottom, left:right] = True
        assert outside.all() and (after[1] != images[1]).any()
        assert mirrored.flagged and after.shape == images.shape
        assert face.detector == "320n.onnx sha256 c15d8273adad2d0a" and face.detector in str(session.receipt.to_dict())


def test_a_person_with_clothes_is_not_flagged(tiny: Any, portrait: torch.Tensor) -> None:
    with guard(tiny, "black") as session:
        after = session.check_image(portrait[None], [None])
        assert torch.equal(after[0], portrait) and [v.flagged for v in session.receipt.verdicts] == [False]


def test_a_threshold_between_two_scores_decides(tiny: Any, portrait: torch.Tensor) -> None:
    with guard(tiny, labels=FACES) as session:
        session.check_image(portrait[None], [None])
        score = session.receipt.verdicts[0].score
    for threshold, flagged in ((score - 0.01, True), (score + 0.01, False)):
        with guard(tiny, labels=FACES, threshold=threshold) as session:
            session.check_image(portrait[None], [None])
            assert session.receipt.verdicts[0].flagged is flagged


def test_a_generation_that_shows_nobody_is_bit_identical(tiny: Any) -> None:
    def draw() -> np.ndarray:
        seed = torch.Generator().manual_seed(0)
        return tiny("a red apple", num_inference_steps=2, generator=seed, output_type="np").images

    bare = draw()
    with guard(tiny, "reject") as session:
        assert np.array_equal(draw(), bare)
        assert [v.label for v in session.receipt.verdicts] == ["nothing"]


def test_bad_settings_say_what_to_write(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PolicyError, match="NudeNet knows FEMALE_BREAST_EXPOSED"):
        guard(tiny, labels=["NUDE"])
    with pytest.raises(PolicyError, match="threshold"):
        guard(tiny, threshold=0.1)
    monkeypatch.setattr("conceptguard_plugins.pictures.nudenet.find_spec", lambda name: None)
    with pytest.raises(PolicyError, match=r'pip install "conceptguard\[nudenet\]"'):
        guard(tiny)
