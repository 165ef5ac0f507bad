"""What a picture is drawn towards in ComfyUI: by the scale's sign, and by nodes that combine predictions themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sampling import sample

from conceptguard import attach
from conceptguard.errors import GuardError

CIGARETTE, DOG = "a cigarette, noto style", "a dog, noto style"
CONCEPT = {"name": "cigarette", "prompts": ["a cigarette"]}
SLD = {"method": "sld", "concept": CONCEPT}
SAFREE = {"method": "safree", "concept": CONCEPT, "positions": "all", "schedule": False}


@pytest.fixture
def guarded(parts: Any, request: pytest.FixtureRequest) -> Any:
    """(MODEL, session) under one guard."""
    session = attach((parts.model, parts.clip), {"guards": [request.param]})
    session.host.candidates = lambda: (CIGARETTE, DOG)
    return session.host.guarded(), session


def gates(session: Any) -> dict[str, float]:
    return {row.branch: gate for row, gate in zip(session.receipt.rows, session.receipt.acts[0].gates)}


@pytest.mark.parametrize("guarded", [SLD, SAFREE], indirect=True)
@pytest.mark.parametrize(("cfg", "towards"), [(0.0, ["negative"]), (0.5, ["negative", "conditional"]),
                                              (-2.0, ["negative"]), (3.5, ["conditional"])])  # fmt: skip
def test_gates_by_the_sign_of_the_scale(guarded: Any, bare: Any, cfg: float, towards: list[str]) -> None:
    model, session = guarded
    one, other = bare.encode(CIGARETTE), bare.encode(DOG)
    for positive, negative, branch in ((one, other, "conditional"), (other, one, "negative")):
        opens = branch in towards
        plain = sample(bare.parts.model, positive, negative, cfg=cfg, steps=1)
        got = sample(model, positive, negative, cfg=cfg, steps=1)
        assert gates(session) == {"negative": 0, "conditional": 0, branch: float(opens)}
        assert torch.equal(got, plain) is not opens


@pytest.mark.parametrize("guarded", [SLD], indirect=True)
def test_a_picture_of_the_negative_prompt(guarded: Any, bare: Any) -> None:
    """As the judge sees it, at scale 0, where nothing else is drawn."""
    from conceptguard.measuring.judges import load_judge

    judge = load_judge("emoji-sd")

    def drawn(model: Any) -> list[str]:
        latents = sample(model, bare.encode(DOG), bare.encode(CIGARETTE), cfg=0.0, steps=10, batch=3)
        with torch.inference_mode():
            return judge.judge(bare.parts.vae.decode(latents).movedim(-1, 1)).objects  # type: ignore[no-any-return]

    assert drawn(bare.parts.model).count("cigarette") >= 2
    assert "cigarette" not in drawn(guarded[0])


def of_a_node(model: Any, name: str, **given: Any) -> Any:
    """The MODEL that a node of ComfyUI's own makes of one."""
    import importlib

    file, _, node = name.partition(".")
    made = getattr(importlib.import_module(f"comfy_extras.{file}"), node)
    out = made.execute(model, **given).result if hasattr(made, "execute") else made().patch(model, **given)
    return out[0]


@pytest.mark.parametrize("guarded", [SLD], indirect=True)
@pytest.mark.parametrize(("node", "settings", "scale"), [
    ("nodes_model_advanced.RescaleCFG", {"multiplier": 0.7}, 3.5),
    ("nodes_cfg.CFGZeroStar", {}, 3.5),
    ("nodes_cfg.CFGNorm", {"strength": 1.0}, 3.5),
    ("nodes_video_model.VideoLinearCFGGuidance", {"min_cfg": 0.0}, None),
    ("nodes_apg.APG", {"eta": -9.0, "norm_threshold": 0.0, "momentum": 0.0}, None),
    ("nodes_fresca.FreSca", {"scale_low": 0.0, "scale_high": 0.0, "freq_cutoff": 20}, None),
], ids=str)  # fmt: skip
def test_nodes_that_combine_predictions(
    guarded: Any, bare: Any, node: str, settings: dict[str, Any], scale: float | None
) -> None:
    """Those that may turn guidance around have both of its branches guarded; the others have not."""
    model, session = guarded
    positive, negative = bare.encode(DOG), bare.encode(CIGARETTE)
    options: dict[str, Any] = {"cfg": 3.5, "steps": 1, "batch": 2}
    plain = sample(of_a_node(bare.parts.model, node, **settings), positive, negative, **options)
    got = sample(of_a_node(model, node, **settings), positive, negative, **options)
    assert gates(session) == {"conditional": 0, "negative": float(scale is None)}
    assert torch.equal(got, plain) is (scale is not None)


@pytest.mark.parametrize("guarded", [SLD], indirect=True)
def test_without_a_second_branch(guarded: Any, bare: Any) -> None:
    with pytest.raises(GuardError, match="guidance_scale 1 or less"):
        sample(guarded[0], bare.encode(CIGARETTE), bare.encode(DOG), cfg=1.0, steps=1)
