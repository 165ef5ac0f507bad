"""Retries that are steered away from what was found, judged on the embedded model: where it helps, and where not."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
import torch

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import Refused
from conceptguard.generation.images import Images
from conceptguard.measuring.judges import load_judge
from conceptguard.receipt import Receipt, Verdict
from conceptguard.testing.kit_guards import offered

OBJECTS = ("dog", "bicycle", "penguin", "car", "flower", "fish", "tree", "house", "star", "key", "pizza", "coffee")


class DislikesAStyle(Method):
    """Flags every first picture for a style that nobody asked for, and lets all later ones through, noting theirs."""

    name = "dislikes-a-style"
    needs = "nothing"
    judge: Any = None
    style = ""
    seen: list[list[str]] = []

    @hookimpl
    def check_image(self, images: Images) -> None:
        first = not self.seen
        self.seen.append(self.judge.judge(images.pixels).styles)
        label = f"{self.style} style"
        images.verdicts += [Verdict(i, self.name, label, 1.0, first) for i in range(len(images.pixels))]


def drawn(pipe: Any, guard: dict[str, Any], prompts: list[str], steer: bool) -> Receipt:
    """The receipt of a batch whose flagged pictures were drawn once more."""
    policy = {"on_violation": "retry", "retries": 1, "steer": steer, "guards": [guard]}
    seeds = [torch.Generator().manual_seed(1000 + i) for i in range(len(prompts))]
    with conceptguard.attach(pipe, policy) as session:
        with suppress(Refused):
            pipe(prompts, num_inference_steps=10, generator=seeds, output_type="pt")
        return session.receipt


@pytest.mark.slow
def test_what_comes_unasked_comes_no_more(pipe: Any) -> None:
    """The control is another seed alone, after which the commonest style is the one to be drawn away from."""
    DislikesAStyle.judge = load_judge("emoji-sd")
    prompts = [f"a {name}" for name in OBJECTS * 2]
    counts = []
    with offered(DislikesAStyle) as guard:
        for steer in (False, True):
            DislikesAStyle.seen.clear()
            assert drawn(pipe, guard, prompts, steer).retries == 1
            styles = Counter(DislikesAStyle.seen[1])
            DislikesAStyle.style = DislikesAStyle.style or styles.most_common(1)[0][0]
            counts.append(styles[DislikesAStyle.style])
    assert counts[0] >= 4 and counts[1] <= counts[0] / 3, (DislikesAStyle.style, counts)


@pytest.mark.slow
def test_what_is_asked_for_is_drawn_all_the_same(pipe: Any) -> None:
    """A negative prompt takes nothing from a prompt that names it: that is for guards on the prompt and on layers."""
    receipt = drawn(pipe, {"method": "probe", "artifact": "emoji-sd/probe/skull"}, ["a skull, noto style"] * 4, True)
    assert receipt.retries == 1 and sum(verdict.flagged for verdict in receipt.verdicts) >= 2
