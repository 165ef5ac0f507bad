"""ComfyUI's own step caches: guards neither read nor fill them, and act beside what they leave out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sampling import sample
from test_comfyui_guidance import of_a_node

from conceptguard import Method, attach, hookimpl
from conceptguard.errors import GuardError
from conceptguard.generation.denoising import Step
from conceptguard.testing.kit_guards import offered

CIGARETTE, DOG = "a cigarette, noto style", "a dog, noto style"
CONCEPT = {"name": "cigarette", "prompts": ["a cigarette"]}
CACHES = ("EasyCache", "LazyCache")
GUARDS = {
    "terms": {"method": "spm", "artifact": "emoji-sd/spm/cigarette"},
    "conditions": {"method": "safree", "concept": CONCEPT, "positions": "all", "schedule": False},
    "predictions": {"method": "negative_guidance", "concept": CONCEPT},
}


def cached(model: Any, name: str) -> Any:
    """That skips what it can from the third step on."""
    return of_a_node(
        model, f"nodes_easycache.{name}Node", reuse_threshold=0.6, start_percent=0.1, end_percent=0.95, verbose=False
    )


def draw(model: Any, bare: Any, text: str, **more: Any) -> torch.Tensor:
    return sample(model, bare.encode(text), bare.encode(""), steps=6, **more)


class Measures(Method):
    """Asks the model for one more prediction, and changes nothing."""

    name = "measures"
    needs = "concept"
    found: list[tuple[Step, torch.Tensor]] = []

    @hookimpl
    def predict_noise(self, step: Step) -> None:
        assert step.denoise is not None
        self.found.append((step, step.denoise(self.host.encode([CIGARETTE]), [0]).clone()))


@pytest.mark.parametrize("cache", CACHES)
def test_a_guard_that_only_measures_changes_nothing(cache: str, parts: Any, bare: Any) -> None:
    plain = draw(cached(parts.model, cache), bare, DOG)
    assert not torch.equal(plain, draw(parts.model, bare, DOG)), "the cache has to act"
    Measures.found.clear()
    with offered(Measures):
        session = attach((parts.model, parts.clip), {"guards": [{"method": "measures", "concept": CONCEPT}]})
        assert torch.equal(draw(cached(session.host.guarded(), cache), bare, DOG), plain)
    for step, told in Measures.found:
        assert not torch.allclose(told, step.prediction[:1], atol=1e-4), "it is told what the dog's prompt says"


@pytest.mark.parametrize("kind", GUARDS)
@pytest.mark.parametrize("cache", CACHES)
def test_guards_act(cache: str, kind: str, parts: Any, bare: Any) -> None:
    session = attach((parts.model, parts.clip), {"guards": [GUARDS[kind]]})
    session.host.candidates = lambda: (CIGARETTE, DOG)
    model = cached(session.host.guarded(), cache)
    plain = {text: draw(cached(parts.model, cache), bare, text) for text in (CIGARETTE, DOG)}
    assert not torch.allclose(draw(model, bare, CIGARETTE), plain[CIGARETTE], atol=1e-2)
    assert session.receipt.opened
    assert torch.equal(draw(model, bare, DOG), plain[DOG])
    two = draw(cached(parts.model, cache), bare, DOG, batch=2)
    assert torch.equal(draw(model, bare, DOG, batch=2), two)
    with pytest.raises(GuardError, match=f"{cache} decides for all pictures"):
        draw(model, bare, CIGARETTE, batch=2)
