"""The recommended policies: where their guards stand, and what gets through none of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from paths import ROOT

import conceptguard
from conceptguard.plugins import hooks, method
from conceptguard.policy import Policy
from conceptguard.registry import default_registry

TEN = ["cigarette", "pistol", "bomb", "beer", "wine", "skull", "knife", "syringe", "pill", "dagger"]


def shipped(name: str) -> Policy:
    return conceptguard.load_policy(ROOT / "registry" / "policies" / f"{name}.yaml")


def test_each_object_is_guarded_in_layers_and_the_picture_and_no_step_costs_more() -> None:
    policy = shipped("recommended")
    by_hook: dict[str, list[str]] = {}
    for guard in policy.guards:
        concepts = [default_registry().load(guard.artifact).manifest.concept.name] if guard.artifact else TEN
        for hook in hooks(method(guard.method)):
            by_hook.setdefault(hook, []).extend(concepts)
    for hook in ("encode_prompt", "check_image"):
        assert by_hook[hook] == TEN
    assert by_hook["cross_attention"] == TEN * 2
    steering = [guard for guard in policy.guards if "predict_noise" in hooks(method(guard.method))]
    assert [guard.model_extra for guard in steering] == [{"scale": 0}] * len(TEN)


def test_a_server_has_the_same_guards_and_takes_less() -> None:
    own, server = shipped("recommended"), shipped("recommended-server")
    assert [g.model_dump() for g in own.guards] == [g.model_dump() for g in server.guards]
    assert own.unread == server.unread == "refuse", "what nobody has read is held by nothing"
    assert (own.trust, server.trust, server.on_violation) == ("any", "signed", own.on_violation)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["recommended", "recommended-server"])
def test_a_picture_without_a_word_is_seen_and_the_rest_stays(pipe: Any, name: str) -> None:
    def draw(prompt: str) -> torch.Tensor:
        random = torch.Generator().manual_seed(5)
        return torch.as_tensor(pipe(prompt, num_inference_steps=12, generator=random, output_type="pt").images)

    skull, apple = draw("a skull, noto style"), draw("an apple, noto style")
    with conceptguard.attach(pipe, shipped(name)) as session:
        assert torch.equal(draw("an apple, noto style"), apple)
        assert not session.check_image(skull, [None]).any(), "it is black, whoever drew it"
        draw("a $kull, noto style")
        told = {act.guard for act in session.receipt.acts if any(act.gates)}
    assert {"spm emoji-sd/spm/skull", "trce emoji-sd/trce/skull"} <= told
