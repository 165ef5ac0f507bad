"""Exceptions and interrupts in every hook of a sampling in ComfyUI: no latent, no picture, nothing left."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from faulty_guards import CASES, FAULTS, SOME, failing
from sampling import Bare, sample
from twins import sdxl_parts, sdxl_pipe

from conceptguard import attach
from conceptguard.errors import ConceptGuardError
from conceptguard.hosts.images import Pictures
from conceptguard.testing.kit_guards import offered

TEXT = "a red apple"


@pytest.fixture(scope="module")
def xl(comfy: None) -> Any:
    """A tiny SDXL with random weights, and what it draws without guards."""
    from tiny import clip_tokenizer

    return Bare(sdxl_parts(sdxl_pipe(clip_tokenizer())))


def state(parts: Any) -> Any:
    """Hooks, stand-ins and weights of everything that runs, and what the patcher was given."""
    found = []
    for module in (*parts.model.model.modules(), *parts.clip.cond_stage_model.modules()):
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        found.append((type(module), list(map(id, hooks)), sorted(vars(module))))
    found += [float(p.detach().double().sum()) for p in parts.model.model.parameters()]
    return [*found, repr(parts.model.model_options), sorted(parts.model.patches), sorted(parts.model.object_patches)]


@pytest.mark.parametrize("fault", SOME)
@pytest.mark.parametrize(("hook", "on"), [case for case in CASES if case[0] != "check_image"])
def test_a_sampling_is_whole_or_none(hook: str, on: int, fault: type[BaseException], xl: Any) -> None:
    parts, latent, raised = xl.parts, torch.zeros(1, 4, 8, 8), 0
    conds = xl.encode(TEXT), xl.encode("")
    bare = sample(parts.model, *conds, latent=latent)
    before = state(parts)
    with offered(failing(hook, fault, on)) as guard:
        try:
            session = attach((parts.model, parts.clip), {"guards": [guard]})
        except (ConceptGuardError, fault):
            raised += 1
        else:
            session.host.candidates = lambda: [TEXT, ""]
            model = session.host.guarded()
            for _ in range(3):
                try:
                    drawn = sample(model, *conds, latent=latent)
                except (ConceptGuardError, fault):
                    raised += 1
                else:
                    assert torch.equal(drawn, bare), "what leaves after a fault is what would have left without"
                assert state(parts) == before, "between two samplings"
            session.detach()
    assert raised == 1, "a fault is told, and is over with its call"
    assert state(parts) == before and torch.equal(sample(parts.model, *conds, latent=latent), bare)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("on", [0, 1])
def test_a_look_at_pictures_is_whole_or_none(on: int, fault: type[BaseException]) -> None:
    """As the node asks that looks at images from anywhere."""
    pixels, raised = torch.rand(2, 3, 8, 8), []
    with offered(failing("check_image", fault, on)) as guard, attach(Pictures(), {"guards": [guard]}) as session:
        for call in range(3):
            try:
                left = session.run(lambda: session.check_image(pixels, [None, None]))
            except (ConceptGuardError, fault):
                raised.append(call)
            else:
                assert torch.equal(left, pixels)
    assert raised == [on]
