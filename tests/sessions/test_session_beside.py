"""A guarded pipeline beside what others do to it: adapters, offloading, compiling, an unguarded one on its UNet."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig
from tiny import generate

import conceptguard
from conceptguard.errors import GuardError

OPENS, UNRELATED = "a cigarette", "a red apple"


def test_peft_loaded_before_and_after(tiny: Any, policy: dict[str, Any]) -> None:
    """Beside a user's LoRA the guard adds the same terms; taking the LoRA away mid-session changes nothing for it."""
    config = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    with conceptguard.attach(tiny, policy):
        without = generate(tiny, OPENS)
        torch.manual_seed(0)
        tiny.unet.add_adapter(config)
        after = generate(tiny, OPENS)
        assert not torch.allclose(after, without)
    with conceptguard.attach(tiny, policy):
        torch.testing.assert_close(generate(tiny, OPENS), after, rtol=1e-5, atol=1e-4)
        tiny.unet.delete_adapters("default")
        tiny.unet.unload_lora()
        assert torch.equal(generate(tiny, OPENS), without)


def test_offloaded_weights_stay_where_they_are(tiny: Any, policy: dict[str, Any]) -> None:
    from accelerate import cpu_offload
    from accelerate.hooks import remove_hook_from_submodules

    with conceptguard.attach(tiny, policy):
        want = generate(tiny, OPENS)
    cpu_offload(tiny.unet, execution_device=torch.device("cpu"))
    try:
        with conceptguard.attach(tiny, policy) as guard:
            assert {p.device.type for p in tiny.unet.parameters()} == {"meta"}
            assert {bank.down.device.type for bank in guard.banks.banks.values()} == {"cpu"}
            assert torch.equal(generate(tiny, OPENS), want)
            assert {p.device.type for p in tiny.unet.parameters()} == {"meta"}
    finally:
        remove_hook_from_submodules(tiny.unet)


def test_unguarded_beside_guarded_on_one_unet(tiny: Any, policy: dict[str, Any]) -> None:
    """A second pipeline with the same UNet is unguarded under a session of its own with an empty policy."""
    free = type(tiny)(**tiny.components, requires_safety_checker=False)
    free.set_progress_bar_config(disable=True)
    bare = generate(free, OPENS)
    with conceptguard.attach(tiny, policy), conceptguard.attach(free, {"guards": []}) as empty:
        assert torch.equal(generate(free, OPENS), bare) and not empty.receipt.acts
        assert not torch.allclose(generate(tiny, OPENS), bare)
        assert torch.equal(generate(free, OPENS), bare)


def test_compiled_pipeline(tiny: Any, policy: dict[str, Any]) -> None:
    """Compiled in place: the bare graph where nothing opens, one more where any gate does, then none."""
    from torch._dynamo.utils import counters

    with conceptguard.attach(tiny, policy):
        eager = generate(tiny, OPENS)
    torch._dynamo.reset()
    tiny.unet.compile(backend="aot_eager")
    try:
        bare = generate(tiny, UNRELATED)
        with conceptguard.attach(tiny, policy):
            generate(tiny, OPENS)
            counters.clear()
            assert torch.equal(generate(tiny, UNRELATED), bare)
            torch.testing.assert_close(generate(tiny, OPENS), eager, rtol=1e-4, atol=1e-4)
            assert counters["frames"]["total"] == 0
    finally:
        tiny.unet._compiled_call_impl = None
        torch._dynamo.reset()


def test_compiled_before_attaching_is_never_silent(tiny: Any, policy: dict[str, Any]) -> None:
    """A graph compiled before the guards came knows nothing of them: guarded all the same, or an error."""
    with conceptguard.attach(tiny, policy):
        guarded = generate(tiny, OPENS)
    torch._dynamo.reset()
    tiny.unet.compile(backend="aot_eager")
    try:
        bare = generate(tiny, OPENS)
        with conceptguard.attach(tiny, policy):
            try:
                got = generate(tiny, OPENS)
            except GuardError as error:
                assert "compile" in str(error) or "did not run" in str(error)
            else:
                torch.testing.assert_close(got, guarded, rtol=1e-4, atol=1e-4)
        assert torch.equal(generate(tiny, OPENS), bare)
    finally:
        tiny.unet._compiled_call_impl = None
        torch._dynamo.reset()
