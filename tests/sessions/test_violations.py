"""What becomes of pictures that a guard flags, and of those it lets pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from image_guards import FlagsApples
from tiny import generate

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import GuardError, Refused
from conceptguard.generation.images import Images
from conceptguard.method import Settings
from conceptguard.receipt import Verdict
from conceptguard.sessions.steering import as_words, away_from
from conceptguard.testing.kit_guards import offered

UNRELATED = "a red apple"


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_pictures_that_pass_are_bit_identical(tiny: Any, output_type: str) -> None:
    prompts = ["a small dog", UNRELATED]
    bare = np.stack([np.asarray(image) for image in generate(tiny, prompts, output_type=output_type)])
    with offered(FlagsApples) as guard:
        for action in ("flag", "black"):
            with conceptguard.attach(tiny, {"on_violation": action, "guards": [guard]}) as session:
                got = np.stack([np.asarray(image) for image in generate(tiny, prompts, output_type=output_type)])
            assert got.dtype == bare.dtype and np.array_equal(got[0], bare[0])
            assert np.array_equal(got[1], bare[1]) == (action == "flag")
            assert session.receipt.action == action and [v.flagged for v in session.receipt.verdicts] == [False, True]
        with conceptguard.attach(tiny, {"on_violation": "reject", "guards": [guard]}):
            with pytest.raises(Refused, match="image 1 shows apple"):
                generate(tiny, prompts, output_type=output_type)
            with pytest.raises(GuardError, match="looks at images"):
                generate(tiny, prompts, output_type="latent")


class FlagsDark(Method):
    """Flags every picture that is darker than its threshold, whatever it shows."""

    name = "flags-dark"
    needs = "nothing"

    class Settings(Settings):
        below: float

    @hookimpl
    def check_image(self, images: Images) -> None:
        for i, mean in enumerate(images.pixels.mean((1, 2, 3)).tolist()):
            images.verdicts.append(Verdict(i, self.name, "dark", mean, mean < self.settings.below))


def test_retry_draws_flagged_pictures_from_other_seeds(tiny: Any) -> None:
    prompts = ["a small dog", UNRELATED, "a house"]
    bare = generate(tiny, prompts, output_type="np")
    means = sorted(float(image.mean()) for image in bare)
    below = (means[0] + means[1]) / 2  # the darkest of the three is flagged
    with offered(FlagsDark) as guard:
        policy = {"on_violation": "retry", "retries": 20, "guards": [{**guard, "below": below}]}
        with conceptguard.attach(tiny, policy) as session:
            got = generate(tiny, prompts, output_type="np")
            receipt = session.receipt
            again = generate(tiny, prompts, output_type="np")
        changed = [not np.array_equal(a, b) for a, b in zip(got, bare)]
        assert sum(changed) == 1 and float(bare[changed.index(True)].mean()) < below <= float(min(map(np.mean, got)))
        assert receipt.action == "retry" and 1 <= receipt.retries <= 20
        assert len(receipt.verdicts) == 3 and not any(v.flagged for v in receipt.verdicts)
        assert np.array_equal(got, again)  # the new seeds are a function of the caller's
        hopeless = {**policy, "retries": 2, "guards": [{**guard, "below": 2.0}]}
        with conceptguard.attach(tiny, hopeless) as session:
            with pytest.raises(Refused, match="dark"):
                generate(tiny, prompts, output_type="np")
            assert session.receipt.retries == 2
            with pytest.raises(Refused, match="dark"):  # these latents give the same picture again
                tiny("a dog", latents=torch.zeros(1, 4, 8, 8), num_inference_steps=1, output_type="np")
            assert session.receipt.retries == 0


class SeesAPear(Method):
    """Flags every picture of a dog, for a pear at its bottom right, until it is drawn away from that."""

    name = "sees-a-pear"
    needs = "nothing"
    asked: list[Any] = []

    @hookimpl
    def encode_prompt(self, prompts: Any) -> None:
        self.asked.append([text for text, branch in zip(prompts.texts, prompts.branches) if branch != "conditional"])

    @hookimpl
    def check_image(self, images: Images) -> None:
        away = any("pear" in (text or "") for text in self.asked[-1])
        for i, text in enumerate(images.prompts):
            seen = "dog" in (text or "") and not away
            images.verdicts.append(Verdict(i, self.name, "RIPE_PEAR", 0.9, seen, [(50, 50, 60, 64)] if seen else []))


AWAY = "ripe pear, ripe pear at the bottom right"


@pytest.mark.parametrize(
    ("prompt", "call", "asked"),
    [
        ("a dog", {}, [AWAY]),
        ("a dog", {"negative_prompt": "blurry", "num_images_per_prompt": 2}, [f"blurry, {AWAY}"] * 2),
        (["a cat", "a dog"], {}, ["", AWAY]),
        (["a cat", "a dog"], {"negative_prompt": ["dark", "blurry"]}, ["dark", f"blurry, {AWAY}"]),
    ],
    ids=["one", "several of one", "a batch", "a batch with negative prompts"],
)
def test_steered_retries_are_drawn_away_from_what_was_found(
    tiny: Any, prompt: Any, call: dict[str, Any], asked: list[str]
) -> None:
    policy = {"on_violation": "retry", "retries": 3, "steer": True}
    with offered(SeesAPear) as guard, conceptguard.attach(tiny, {**policy, "guards": [guard]}) as session:
        SeesAPear.asked.clear()
        generate(tiny, prompt, output_type="np", **call)
        receipt = session.receipt
    assert receipt.retries == 1 and not any(v.flagged for v in receipt.verdicts)
    assert [text or "" for text in SeesAPear.asked[-1]] == asked
    (note,) = receipt.acts[0].notes
    assert note.startswith("drawn again, image") and AWAY in note
    assert any(AWAY in (row.text or "") for row in receipt.rows if row.branch != "conditional")


@pytest.mark.parametrize(
    ("steer", "call"), [(False, {}), (True, {"guidance_scale": 1.0})], ids=["not asked", "no guidance"]
)
def test_other_retries_change_the_seed_alone(tiny: Any, steer: bool, call: dict[str, Any]) -> None:
    policy = {"on_violation": "retry", "retries": 2, "steer": steer}
    with offered(SeesAPear) as guard, conceptguard.attach(tiny, {**policy, "guards": [guard]}) as session:
        SeesAPear.asked.clear()
        with pytest.raises(Refused, match="RIPE_PEAR"):
            generate(tiny, "a dog", output_type="np", **call)
        assert session.receipt.retries == 2 and not session.receipt.acts[0].notes
    assert not any(AWAY in (text or "") for texts in SeesAPear.asked for text in texts)


def test_what_was_found_is_said_in_words() -> None:
    boxes = {(0, 0, 10, 10): "at the top left", (40, 40, 60, 60): "in the center", (90, 0, 100, 100): "on the right"}
    seen = [
        Verdict(1, "g", "QRCode", 1.0, True, list(boxes)),
        Verdict(1, "h", "nsfw", 0.8, True),
        Verdict(0, "g", "x", 0.2, False),
    ]
    found = away_from(Images(torch.zeros(2, 3, 100, 100), [None, None], seen))
    assert found == {1: ", ".join(["QR code", *(f"QR code {place}" for place in boxes.values()), "nsfw"])}
    assert [as_words(label) for label in ("FACE_MALE", "stolen car", "QRCode", "EAN13")] == [
        "face male",
        "stolen car",
        "QR code",
        "ean13",
    ]
