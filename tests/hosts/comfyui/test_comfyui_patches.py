"""Nodes that patch weights under guards: what multiplies them is made up for, what takes terms back is refused."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from sampling import sample

from conceptguard import attach
from conceptguard.errors import GuardError
from conceptguard.formats import read_artifact, read_weights_of, to_kohya
from conceptguard.registry import default_registry

SMOKING, APPLE = "a man smoking a cigarette, noto style", "a red apple, noto style"
KINDS = ["spm", "uce"]


@pytest.fixture(scope="module")
def lora(parts: Any) -> Callable[[str, str], Any]:
    """(kind, concept) -> a shipped artifact as somebody's LoRA file."""

    @cache
    def made(kind: str, concept: str) -> Any:
        layers = attach((parts.model, parts.clip), {}).layers
        artifact = default_registry().load(f"emoji-sd/{kind}/{concept}")
        return to_kohya(read_artifact(artifact, layers, base_weights=read_weights_of(layers)))[0]

    return made


def load(model: Any, lora: Any, strength: float) -> Any:
    """What Load LoRA makes of a MODEL."""
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, lora, strength, 0)[0]


def node(name: str, *given: Any) -> Any:
    """What a node of ComfyUI's own makes of a MODEL."""
    file, _, node = name.partition(".")
    made = getattr(importlib.import_module(f"comfy_extras.{file}"), node)
    return (made.execute(*given).result if hasattr(made, "execute") else getattr(made(), made.FUNCTION)(*given))[0]


def multiplied(model: Any, q: float = 1.0, k: float = 1.0, v: float = 10.0, out: float = 0.1) -> Any:
    return node("nodes_attention_multiply.UNetCrossAttentionMultiply", model, q, k, v, out)


@pytest.fixture
def guarded(parts: Any, request: pytest.FixtureRequest) -> Any:
    """(MODEL, session, kind) under one guard with terms."""
    session = attach((parts.model, parts.clip), {"guards": [_guard(request.param)]})
    session.host.candidates = lambda: (SMOKING, APPLE)
    return session.host.guarded(), session, request.param


def _guard(kind: str, **settings: Any) -> dict[str, Any]:
    return {"method": kind, "artifact": f"emoji-sd/{kind}/cigarette", **settings}


def draw(model: Any, bare: Any, text: str = SMOKING, **options: Any) -> torch.Tensor:
    return sample(model, bare.encode(text), bare.encode(""), steps=1, **options)


MULTIPLIERS: dict[str, Callable[[Any], Any]] = {
    "v out": multiplied,
    "all": lambda model: multiplied(model, 0.5, 3.0, -1.0, 2.0),
    "twice": lambda model: multiplied(multiplied(model)),
    "self": lambda model: node("nodes_attention_multiply.UNetSelfAttentionMultiply", model, 1.0, 2.0, 3.0, 0.5),
}


def _alike(latents: Any, others: Any) -> bool:
    """To a thousandth of the largest, which is some hundred where weights are many times what they were."""
    return torch.allclose(latents, others, atol=1e-3 * float(others.abs().max()))


@pytest.mark.parametrize(("by", "kind"), [("v out", "uce"), ("twice", "uce"), ("all", "spm"), ("self", "spm")])
def test_terms_are_multiplied_with_their_weights(by: str, kind: str, parts: Any, bare: Any, lora: Any) -> None:
    """As if they had been in the weights when these were multiplied."""
    session = attach((parts.model, parts.clip), {"guards": [_guard(kind, gate="always")]})
    session.host.candidates = lambda: (SMOKING,)
    edited = load(parts.model, lora(kind, "cigarette"), 1.0)
    merged = draw(MULTIPLIERS[by](edited), bare)
    mine = draw(MULTIPLIERS[by](session.host.guarded()), bare)
    assert not torch.allclose(draw(MULTIPLIERS[by](parts.model), bare), merged, atol=1e-2)
    assert _alike(mine, merged), (mine - merged).abs().max()
    assert session.receipt.acts[0].notes[0].startswith("terms times ")
    assert torch.allclose(draw(session.host.guarded(), bare), draw(edited, bare), atol=2e-3)
    assert not session.receipt.acts[0].notes


def test_weights_are_read_without_the_patches_of_a_sampling_before(parts: Any, bare: Any) -> None:
    """Which ComfyUI leaves in them: an edit that is worked out from weights would be multiplied twice."""
    session = attach((parts.model, parts.clip), {})
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    weight, layer = session.host.weights(), session.layers[name]
    own = weight(name).clone()
    draw(multiplied(parts.model), bare)
    assert torch.allclose(layer.weight.float(), 10 * own, atol=1e-3)
    assert torch.equal(weight(name), own)


WAYS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "-1": lambda model, base, own: load(model, own, -1.0),
    "-0.5": lambda model, base, own: load(model, own, -0.5),
    "-0.3 three times": lambda model, base, own: load(load(load(model, own, -0.3), own, -0.3), own, -0.3),
    "split": lambda model, base, own: load(load(model, _half(own, 0), -1.0), _half(own, 1), -1.0),
    "and multiplied": lambda model, base, own: multiplied(load(model, own, -1.0)),
    "after multiplying": lambda model, base, own: load(multiplied(model), own, -10.0),
    "merged": lambda model, base, own: node("nodes_model_merging.ModelMergeSimple", model, load(base, own, -1.0), 0.0),
    "as a difference": lambda model, base, own: node(
        "nodes_model_merging.ModelAdd", model,
        node("nodes_model_merging.ModelSubtract", load(base, own, -1.0), base, 1.0),
    ),
}  # fmt: skip


def _half(lora: Any, which: int) -> Any:
    layers = sorted({key.split(".", 1)[0] for key in lora})[which::2]
    return {key: value for key, value in lora.items() if key.split(".", 1)[0] in layers}


@pytest.mark.parametrize(("way", "guarded"), [(way, KINDS[n % 2]) for n, way in enumerate(WAYS)], indirect=["guarded"])
def test_the_artifact_as_a_lora_that_takes_it_back(way: str, guarded: Any, bare: Any, lora: Any) -> None:
    """Whatever the prompt: an error, or none, at every call."""
    model, _, kind = guarded
    undone = WAYS[way](model, bare.parts.model, lora(kind, "cigarette"))
    for _ in range(2):
        with pytest.raises(GuardError, match=rf"'{kind} emoji-sd/{kind}/cigarette': a patch .* takes back [5-91]\d+%"):
            draw(undone, bare, APPLE)


@pytest.mark.parametrize("kind", KINDS)
def test_loras_that_take_nothing_back(kind: str, parts: Any, bare: Any, lora: Any) -> None:
    """Of other concepts, with any sign, and its own once more: added to the guard. The receipt says what it has to do
    with its terms."""
    session = attach((parts.model, parts.clip), {"guards": [_guard(kind, gate="always")]})
    session.host.candidates = lambda: (SMOKING,)
    edited = load(parts.model, lora(kind, "cigarette"), 1.0)
    for concept, strength, said in (("pistol", 1.0, "add"), ("pistol", -1.0, "take back"), ("cigarette", 1.0, "add")):
        got, both = (
            draw(load(model, lora(kind, concept), strength), bare) for model in (session.host.guarded(), edited)
        )
        assert _alike(got, both)
        assert any(f"{said} " in note for note in session.receipt.acts[0].notes)


@pytest.mark.parametrize(("guarded", "frames"), [("uce", []), ("spm", [0.0, -1.0])], indirect=["guarded"])
def test_hooks_of_a_condition(guarded: Any, frames: list[float], bare: Any, lora: Any) -> None:
    """A LoRA that comes with a condition, in some steps only."""
    import comfy.hooks

    model, session, kind = guarded

    def hooked(concept: str, strength: float) -> Any:
        hooks = comfy.hooks.create_hook_lora(lora(kind, concept), strength, 0.0)
        keyframes = comfy.hooks.HookKeyframeGroup()
        for n, times in enumerate(frames):
            keyframes.add(comfy.hooks.HookKeyframe(times, start_percent=0.5 * n))
        if frames:
            hooks.set_keyframes_on_hooks(keyframes)
        return comfy.hooks.set_hooks_for_conditioning(bare.encode(SMOKING), hooks)

    with pytest.raises(GuardError, match="takes back 100%"):
        sample(model, hooked("cigarette", -1.0 if not frames else 1.0), bare.encode(""), steps=1)
    sample(model, hooked("pistol", 1.0), bare.encode(""), steps=1)
    assert session.receipt.acts[0].gates


@pytest.mark.parametrize("guarded", ["uce"], indirect=True)
def test_another_weight_in_its_place(guarded: Any, bare: Any) -> None:
    """A merge with a model that has nothing in common with this one."""
    model, _, _ = guarded
    strange = bare.parts.model.clone()
    generator = torch.Generator().manual_seed(0)
    names = [n for n, _ in strange.model.named_parameters() if n.endswith("attn2.to_v.weight")]
    weights = dict(strange.model.named_parameters())
    strange.add_patches({n: ("set", (torch.randn(weights[n].shape, generator=generator) * 0.05,)) for n in names})
    with pytest.raises(GuardError, match=r"attn2.to_v: its weight was multiplied.*leave out the node"):
        draw(node("nodes_model_merging.ModelMergeSimple", model, strange, 0.1), bare)


@pytest.mark.parametrize("guarded", ["spm"], indirect=True)
def test_a_lora_in_bypass_mode(guarded: Any, bare: Any) -> None:
    from comfy.patcher_extension import PatcherInjection

    model = guarded[0].clone()
    model.set_injections("bypass_lora", [PatcherInjection(lambda model: None, lambda model: None)])
    with pytest.raises(GuardError, match="bypass mode"):
        draw(model, bare)


def test_terms_beside_a_text_encoder(parts: Any, bare: Any, pipe: Any, tmp_path: Any) -> None:
    """Where Guard Encoder encodes: multiplied with the encoder's weights, refused where a LoRA takes them back."""
    import comfy.sd
    from random_artifacts import random_terms, write_terms
    from sampling import encode

    from conceptguard.hosts.comfyui.clip import GuardedCLIP

    terms = random_terms(pipe, names=("q_proj", "v_proj", "fc1"), component="text_encoder", rank=2)
    guard = {"method": "lora", "artifact": str(write_terms(tmp_path / "lora", pipe, terms, method="lora"))}
    session = attach((parts.model, parts.clip), {"guards": [{**guard, "gate": "always"}]})
    own = to_kohya(terms)[0]

    def with_lora(clip: Any, strength: float) -> Any:
        return comfy.sd.load_lora_for_models(None, clip, own, 0, strength)[1]

    def by_ten(clip: Any) -> Any:
        return node("nodes_attention_multiply.CLIPAttentionMultiply", clip, 1.0, 1.0, 10.0, 0.1)

    clip = GuardedCLIP(parts.clip, session)
    with torch.inference_mode():
        mine = encode(by_ten(clip), SMOKING)[0][0]
        assert any("times 10 on" in note for note in session.receipt.acts[0].notes)
        assert torch.allclose(mine, encode(by_ten(with_lora(parts.clip, 1.0)), SMOKING)[0][0], atol=1e-3)
        assert not torch.allclose(mine, encode(by_ten(parts.clip), SMOKING)[0][0], atol=1e-2)
        with pytest.raises(GuardError, match="takes back 100%"):
            encode(with_lora(clip, -1.0), SMOKING)
        assert torch.allclose(encode(clip, SMOKING)[0][0], encode(with_lora(parts.clip, 1.0), SMOKING)[0][0], atol=1e-3)
