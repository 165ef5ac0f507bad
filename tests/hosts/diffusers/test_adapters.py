"""Adapters of peft beside a session: what takes a guard's terms back is refused, whenever it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from random_artifacts import membrane, random_terms, write_terms
from tiny import generate

import conceptguard
from conceptguard.errors import GuardError
from conceptguard.runtime.lowrank import Factors

PROMPT, APPLE = "a man smoking a cigarette", "a red apple"


def lora(terms: dict[str, Factors]) -> dict[str, torch.Tensor]:
    """Terms as somebody's LoRA file in peft's keys."""
    found = {}
    for name, (down, up, scale) in terms.items():
        found[f"{name}.lora_A.weight"] = down.clone()
        found[f"{name}.lora_B.weight"] = up * scale
    return found


@pytest.fixture
def pipe(tiny: Any, tmp_path: Path) -> Iterator[Any]:
    """A tiny pipeline with LoRAs to load: its guard's own artifact, and others."""
    tiny.own, tiny.alike = (lora(random_terms(tiny, seed=seed)) for seed in (0, 1))
    tiny.other = lora(random_terms(tiny, seed=2, rank=4))
    tiny.policy = {"guards": [membrane(tmp_path, tiny)]}
    yield tiny
    tiny.unload_lora_weights()


def at(pipe: Any, *loras: tuple[dict[str, torch.Tensor], float]) -> None:
    """Load and set."""
    for n, (tensors, _) in enumerate(loras):
        pipe.load_lora_weights(dict(tensors), adapter_name=f"of {n}")
    pipe.set_adapters([f"of {n}" for n in range(len(loras))], [strength for _, strength in loras])


def _split(tensors: dict[str, torch.Tensor], which: int) -> dict[str, torch.Tensor]:
    layers = sorted({key.rpartition(".lora_")[0] for key in tensors})[which::2]
    return {key: value for key, value in tensors.items() if key.rpartition(".lora_")[0] in layers}


def _hotswapped(pipe: Any) -> dict[str, Any]:
    at(pipe, (pipe.alike, -1.0))
    generate(pipe, APPLE)
    pipe.load_lora_weights(dict(pipe.own), adapter_name="of 0", hotswap=True)
    pipe.set_adapters(["of 0"], [-1.0])
    return {}


def _by_peft(pipe: Any) -> dict[str, Any]:
    """Without the pipeline."""
    pipe.unet.load_lora_adapter({key.removeprefix("unet."): t for key, t in pipe.own.items()}, prefix=None)
    pipe.unet.set_adapters(list(pipe.unet.peft_config), [-1.0])
    return {}


def _fused(pipe: Any, scale: float = 1.0) -> dict[str, Any]:
    at(pipe, (pipe.own, -1.0))
    pipe.fuse_lora()
    return {}


def _in_a_callback(pipe: Any) -> dict[str, Any]:
    at(pipe, (pipe.own, 1.0))

    def turn(pipe: Any, index: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        pipe.set_adapters(["of 0"], [-1.0])
        return values

    return {"callback_on_step_end": turn}


def _loaded_in_a_callback(pipe: Any) -> dict[str, Any]:
    def turn(pipe: Any, index: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        if not index:
            at(pipe, (pipe.own, -1.0))
        return values

    return {"callback_on_step_end": turn}


def _by_an_option(pipe: Any) -> dict[str, Any]:
    at(pipe, (pipe.own, 1.0))
    return {"cross_attention_kwargs": {"scale": -1.0}}


WAYS: dict[str, Callable[[Any], dict[str, Any] | None]] = {
    "-1": lambda pipe: at(pipe, (pipe.own, -1.0)),
    "-0.5": lambda pipe: at(pipe, (pipe.own, -0.5)),
    "-0.3 three times": lambda pipe: at(pipe, *[(pipe.own, -0.3)] * 3),
    "split": lambda pipe: at(pipe, (_split(pipe.own, 0), -1.0), (_split(pipe.own, 1), -1.0)),
    "beside another": lambda pipe: at(pipe, (pipe.own, -1.0), (pipe.other, 1.0)),
    "hotswapped": _hotswapped,
    "by peft": _by_peft,
    "fused": _fused,
    "by an option": _by_an_option,
    "in a callback": _in_a_callback,
    "loaded in a callback": _loaded_in_a_callback,
}


@pytest.mark.parametrize(("when", "way"), [
    *(("after", way) for way in WAYS), ("before", "-1"), ("before", "fused"), ("before", "by an option"),
])  # fmt: skip
def test_the_artifact_as_a_lora_that_takes_it_back(pipe: Any, when: str, way: str) -> None:
    """Whatever the prompt, and at every call."""
    options = (WAYS[way](pipe) or {}) if when == "before" else {}
    with conceptguard.attach(pipe, pipe.policy) as session:
        if when == "after":
            generate(pipe, PROMPT)
            options = WAYS[way](pipe) or {}
        for text in (PROMPT, APPLE):
            with pytest.raises(GuardError, match=r"'spm .*': a patch on its layers takes back [1-9]\d+% .* leave that"):
                generate(pipe, text, **options)
        assert not session.receipt.acts[0].steps or "callback" in way
        pipe.unfuse_lora()
        pipe.disable_lora()
        generate(pipe, PROMPT)
        assert not session.receipt.acts[0].notes and session.receipt.acts[0].steps == [0, 1]


def test_loras_of_others(pipe: Any) -> None:
    """With any sign they act as they do alone, added to the guard; the receipt says what they have to do with it."""
    rules = {"guards": [{**pipe.policy["guards"][0], "gate": "always"}]}
    plain = generate(pipe, PROMPT)
    for loras, said in (
        (((pipe.other, -1.0),), ""), (((pipe.own, 1.0),), "add 100.0%"), (((pipe.own, -0.1),), "take back 10.0%"),
    ):  # fmt: skip
        at(pipe, *loras, (pipe.own, 1.0))
        both = generate(pipe, PROMPT)
        pipe.unload_lora_weights()
        with conceptguard.attach(pipe, rules) as session:
            at(pipe, *loras)
            assert torch.allclose(generate(pipe, PROMPT), both, atol=2e-3)
            assert said in "".join(session.receipt.acts[0].notes)
            pipe.unload_lora_weights()
            generate(pipe, PROMPT)
            assert not session.receipt.acts[0].notes
    assert torch.equal(generate(pipe, PROMPT), plain)


def test_an_adapter_that_rescales_weights(pipe: Any) -> None:
    """DoRA has a magnitude for each output: what it makes of a weight is measured, not assumed to be added."""
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=1, target_modules=["to_k", "to_v"], use_dora=True), pipe.unet)
    with conceptguard.attach(pipe, pipe.policy) as session:
        generate(pipe, PROMPT)
        assert not session.receipt.acts[0].notes
        for module in pipe.unet.modules():
            if hasattr(module, "lora_magnitude_vector"):
                module.lora_magnitude_vector["default"].weight.data.mul_(4.0)
        generate(pipe, PROMPT)
        assert "terms times 4 on" in session.receipt.acts[0].notes[0]


@pytest.mark.parametrize("by", ["in place", "another"])
def test_weights_that_change_by_themselves(pipe: Any, by: str) -> None:
    """A LoRA that was merged and is gone, or any other edit of a guarded layer: what it did cannot be told."""
    layer = next(module for name, module in pipe.unet.named_modules() if name.endswith("attn2.to_v"))
    with conceptguard.attach(pipe, pipe.policy):
        generate(pipe, PROMPT)
        weight = layer.weight
        if by == "in place":
            layer.weight.data.mul_(0.1)
        else:
            layer.weight = torch.nn.Parameter(0.1 * layer.weight.detach())
        with pytest.raises(GuardError, match=r"attn2\.to_v is another one than when the policy was attached"):
            generate(pipe, APPLE)
        layer.weight = weight
        if by == "in place":
            layer.weight.data.mul_(10.0)
    with conceptguard.attach(pipe, pipe.policy):
        generate(pipe, PROMPT)
        pipe.to(torch.float64)  # no edit, nor is a move
        pipe.to(torch.float32)
        generate(pipe, PROMPT)


@pytest.mark.parametrize("then", ["rescaled", "rescaled and unfused"])
def test_an_adapter_that_is_merged_at_another_scale_than_it_says(pipe: Any, then: str) -> None:
    """peft unmerges what the scale is now, whatever it was when it merged."""
    with conceptguard.attach(pipe, pipe.policy):
        generate(pipe, APPLE)
        at(pipe, (pipe.own, -1.0))
        pipe.fuse_lora()
        pipe.set_adapters(["of 0"], [1.0])
        if then != "rescaled":
            with pytest.raises(GuardError):
                generate(pipe, APPLE)
            pipe.unfuse_lora()
            pipe.disable_lora()
        with pytest.raises(GuardError, match="is another one than when the policy was attached"):
            generate(pipe, APPLE)


def test_fusing_and_unfusing(pipe: Any) -> None:
    """What takes nothing back comes and goes, in half precision, too."""
    pipe.to(torch.bfloat16)
    with conceptguard.attach(pipe, pipe.policy) as session:
        for tensors, strength in ((pipe.other, 1.0), (pipe.own, 1.0), (pipe.other, -2.0)):
            at(pipe, (tensors, strength))
            pipe.fuse_lora()
            generate(pipe, APPLE)
            pipe.unfuse_lora()
            generate(pipe, APPLE)
            pipe.unload_lora_weights()
            generate(pipe, APPLE)
        assert not session.receipt.acts[0].notes
    pipe.to(torch.float32)


def test_terms_of_a_text_encoder(pipe: Any, tmp_path: Path) -> None:
    terms = random_terms(pipe, component="text_encoder", names=("q_proj", "fc1"), rank=2)
    folder = write_terms(tmp_path / "lora", pipe, terms, method="lora")
    with conceptguard.attach(pipe, {"guards": [{"method": "lora", "artifact": str(folder)}]}):
        generate(pipe, PROMPT)
        at(pipe, (lora(terms), -1.0))
        with pytest.raises(GuardError, match="takes back 100%"):
            generate(pipe, PROMPT)
        pipe.set_adapters(["of 0"], [1.0])
        generate(pipe, PROMPT)


def test_a_loop_of_the_callers_own(pipe: Any) -> None:
    with conceptguard.attach(pipe, pipe.policy), torch.no_grad():
        towards, _ = pipe.encode_prompt(PROMPT, "cpu", 1, False)
        x = torch.zeros(1, 4, 8, 8)
        pipe.unet(x, 1, towards)
        at(pipe, (pipe.own, -1.0))
        with pytest.raises(GuardError, match="takes back 100%"):
            pipe.unet(x, 1, towards)
