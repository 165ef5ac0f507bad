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
