"""Concept arithmetics (ARC): a caller adds the noise predictions of several prompts, the first one harmless.

A guard that looks at the first prompt of a call is blind to it. The attack is shown to succeed against such a guard,
then to fail: every condition that reaches the denoiser is seen, whoever called it and in which batch.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from naive_guards import FirstPromptOnly
from tiny import generate

import conceptguard
from conceptguard.errors import Refused
from conceptguard.testing.kit_guards import offered

CONCEPT = {"name": "cigarette", "prompts": ["cigarette"]}
A, B, C = "a man", "a cigarette", "a red apple"  # ε(a) + w(ε(b) − ε(c)): the direction of b rides on a
W, STEPS = 4.0, 3


NAIVE = {"method": "first-prompt-only", "concept": CONCEPT}


def attack(pipe: Any, batched: bool = True, prompts: tuple[str, ...] = (A, B, C)) -> torch.Tensor:
    """A caller's own loop: compose, then step. Latents [1, 4, 8, 8]."""
    embeds = pipe.encode_prompt(list(prompts), "cpu", 1, False)[0]
    pipe.scheduler.set_timesteps(STEPS)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for t in pipe.scheduler.timesteps:
            if batched:
                a, b, c = pipe.unet(latents.expand(3, -1, -1, -1), t, embeds).sample.split(1)
            else:
                a, b, c = (pipe.unet(latents, t, encoder_hidden_states=e[None]).sample for e in embeds)
            latents = pipe.scheduler.step(a + W * (b - c), t, latents).prev_sample
    return latents


# On a random encoder only words are telling: triggers at any distance, and the projection in every step.
GUARDS = {
    "safree": {"alpha": 0.0, "schedule": False, "positions": "all"},
    "sld": {},
    "negative_guidance": {},
}


def guarded(method: str) -> dict[str, Any]:
    return {"guards": [{"method": method, "concept": CONCEPT, **GUARDS[method]}]}


def test_the_attack_succeeds_against_a_filter_on_the_first_prompt(tiny: Any) -> None:
    bare = attack(tiny)
    with offered(FirstPromptOnly), conceptguard.attach(tiny, {"guards": [NAIVE]}):
        with pytest.raises(Refused):
            generate(tiny, B)
        assert torch.equal(attack(tiny), bare), "what the concept adds to the picture is all there"
    assert not torch.allclose(bare, attack(tiny, prompts=(A, C, C)), atol=1e-3), "and it does add something"


@pytest.mark.parametrize("batched", [True, False], ids=["one batch", "one call each"])
@pytest.mark.parametrize("method", GUARDS)
def test_the_attack_fails_where_every_condition_is_guarded(tiny: Any, method: str, batched: bool) -> None:
    bare, harmless = attack(tiny, batched), attack(tiny, batched, (A, C, C))
    with conceptguard.attach(tiny, guarded(method)) as session:
        got = attack(tiny, batched)
        act = session.receipt.acts[0]
        assert act.steps == (list(range(STEPS)) if batched else [1, 4, 7]), "in the calls with the concept, no other"
        if batched:
            assert [row.text for row in session.receipt.rows] == [A, B, C]
            assert [bool(gate) for gate in act.gates] == [False, True, False]
        assert torch.equal(attack(tiny, batched, (A, C, C)), harmless), "harmless compositions are left alone"
    assert not torch.allclose(got, bare, atol=1e-2)


@pytest.mark.parametrize("method", GUARDS)
def test_a_negative_prompt_used_as_a_positive_one_is_seen(tiny: Any, method: str) -> None:
    """``encode_prompt`` was told it is a negative prompt; outside of a pipeline nobody knows how it is used."""
    latents, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(500)
    with torch.no_grad(), conceptguard.attach(tiny, guarded(method)) as session:
        hidden = tiny.encode_prompt(A, "cpu", 1, True, negative_prompt=B)[1]
        got = tiny.unet(latents, t, hidden).sample
        assert session.receipt.acts[0].steps == [0]
    assert not torch.allclose(got, tiny.unet(latents, t, hidden).sample, atol=1e-4)


def test_steps_are_counted_by_the_timestep(tiny: Any) -> None:
    """Three calls per step: a schedule of two steps ends after the sixth call, and begins anew with a new picture."""
    guard = {"method": "safree", "concept": CONCEPT, "alpha": 0.0, "gate": "always", "t0": -100.0, "up_t": 2}
    with conceptguard.attach(tiny, {"guards": [guard]}) as session:
        attack(tiny, False)
        assert set(session.receipt.acts[0].steps) <= {0, 1, 2, 3, 4, 5} and 1 in session.receipt.acts[0].steps
        before = len(session.receipt.acts[0].steps)
        attack(tiny, False)
        assert len(session.receipt.acts[0].steps) == 2 * before
