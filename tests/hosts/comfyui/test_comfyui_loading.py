"""A guarded model whose weights leave the device and come back, or come layer by layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sampling import sample
from test_comfyui_host import CIGARETTE, CONCEPT, GUARDS, SMOKING, guarded

from conceptguard.errors import GuardError


@pytest.fixture(scope="module")
def conds(bare: Any) -> Any:
    return {text: bare.encode(text) for text in (SMOKING, "")}


def test_unloaded_and_loaded_again(parts: Any, conds: Any) -> None:
    import comfy.model_management as management

    model, _ = guarded(parts, CIGARETTE)
    out = sample(model, conds[SMOKING], conds[""])
    management.unload_all_models()
    assert torch.equal(sample(model, conds[SMOKING], conds[""]), out)
    management.unload_all_models()


@pytest.mark.parametrize("guard", [CIGARETTE, {**GUARDS["safree"], "reattention": True}, {"method": "astar"}])
def test_partly_loaded(guard: Any, parts: Any, conds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with --novram: weights come to the device when their layer runs, and branches in calls of their own. ComfyUI
    does so where memory is short, which a CPU's is held to be here."""
    import comfy.model_management as management

    model, session = guarded(parts, {"concept": CONCEPT, **guard} if "artifact" not in guard else guard)
    out, loaded = sample(model, conds[SMOKING], conds[""]), []
    management.unload_all_models()
    monkeypatch.setattr(management, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(management, "vram_state", management.VRAMState.NO_VRAM)

    def short(device: Any = None, torch_free_too: bool = False) -> Any:
        return (20 << 20, 20 << 20) if torch_free_too else 20 << 20

    monkeypatch.setattr(management, "get_free_memory", short)
    if guard["method"] == "astar":  # the negative prompt comes first, and from latents that nothing had moved yet
        with pytest.raises(GuardError, match="in one call"):
            sample(model, conds[SMOKING], conds[""])
        return
    low = sample(model, conds[SMOKING], conds[""], callback=lambda *_: loaded.append(model.model.model_lowvram))
    management.unload_all_models()
    assert all(loaded) and session.receipt.steps == 6, "partly loaded, two calls a step"
    assert session.receipt.opened and (low - out).abs().max() < 1e-3
