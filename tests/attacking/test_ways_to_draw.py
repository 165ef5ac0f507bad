"""Ways to draw beside a prompt: from latents, with noise in each step, with somebody's LoRA; and pictures inverted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from random_artifacts import random_terms
from test_attacks import PROMPT, target_of

import conceptguard
from conceptguard.attack import Ask, Attempt
from conceptguard.attacking.target import turned
from conceptguard.errors import SessionError
from conceptguard.runtime.lowrank import Factors


def test_latents_take_the_place_of_noise_and_a_generation_goes_on_from_them(tiny: Any, policy: dict[str, Any]) -> None:
    states: list[torch.Tensor] = []

    def keep(pipe: Any, index: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        states.append(values["latents"].clone())
        return values

    with conceptguard.attach(tiny, policy) as session:
        target = target_of(tiny, session)
        target.steps = 4
        seed = torch.Generator().manual_seed(3)
        whole = tiny(PROMPT, num_inference_steps=4, guidance_scale=target.guidance, generator=seed, output_type="pt",
                     callback_on_step_end=keep).images[0]  # fmt: skip
        noise = torch.randn(1, *target.denoiser.shape, generator=torch.Generator().manual_seed(3))[0]
        first = target.draw(Attempt(PROMPT, latents=noise), 9)
        later = target.draw(Attempt(PROMPT, latents=states[1][0], begin=2), 9)
        without_a_word = target.draw(Attempt("", latents=noise), 9)
    assert first is not None and later is not None and without_a_word is not None
    assert torch.allclose(first, whole, atol=1e-4) and torch.allclose(later, whole, atol=1e-4)
    assert not torch.allclose(without_a_word, whole, atol=1e-3)


def test_noise_in_each_step_is_of_the_seed(tiny: Any, policy: dict[str, Any]) -> None:
    from diffusers import DDIMScheduler, EulerDiscreteScheduler

    tiny.scheduler = DDIMScheduler.from_config(tiny.scheduler.config)
    with conceptguard.attach(tiny, policy) as session:
        target = target_of(tiny, session)
        target.steps = 4
        noise = torch.randn(target.denoiser.shape, generator=torch.Generator().manual_seed(3))
        calm = [target.draw(Attempt(PROMPT, latents=noise), seed) for seed in (0, 1)]
        wild = [target.draw(Attempt(PROMPT, latents=noise, eta=1.0), seed) for seed in (0, 1, 0)]
    assert torch.equal(*calm) and torch.equal(wild[0], wild[2])  # type: ignore[arg-type]
    assert not torch.allclose(wild[0], wild[1], atol=1e-3)  # type: ignore[arg-type]
    tiny.scheduler = EulerDiscreteScheduler.from_config(tiny.scheduler.config)
    with conceptguard.attach(tiny, policy) as session, pytest.raises(SessionError, match="eta is DDIM's"):
        target_of(tiny, session).draw(Attempt(PROMPT, eta=1.0), 0)


def test_a_lora_is_worn_without_a_trace(tiny: Any, policy: dict[str, Any]) -> None:
    ours = {name: one for name, one in random_terms(tiny, seed=2, rank=4).items() if name.startswith("unet")}
    with conceptguard.attach(tiny, policy) as session:
        target = target_of(tiny, session)
        before = target.draw(Attempt(PROMPT), 0)
        worn = target.draw(Attempt(PROMPT, lora=ours), 0)
        after = target.draw(Attempt(PROMPT), 0)
        assert before is not None and worn is not None and after is not None
        assert torch.equal(before, after) and not torch.allclose(before, worn, atol=1e-3)
        assert not tiny.get_list_adapters()
        tensors = {f"{n}.lora_A.weight": one.down for n, one in ours.items()}
        tensors |= {f"{n}.lora_B.weight": 0.5 * one.up for n, one in ours.items()}
        tiny.load_lora_weights(tensors, adapter_name="theirs")
        with pytest.raises(SessionError, match="LoRAs of its own"):
            target.draw(Attempt(PROMPT, lora=ours), 0)
        assert tiny.get_list_adapters() == {"unet": ["theirs"]}
        tiny.unload_lora_weights()


def test_a_lora_that_takes_a_guard_back_is_let_nothing_out(tiny: Any, policy: dict[str, Any]) -> None:
    """Loaded as users load theirs, so that what a policy refuses is refused here as well."""
    own = random_terms(tiny, seed=0)
    back = {n: Factors(one.down, -one.up, one.scale) for n, one in own.items() if n.startswith("unet")}
    with conceptguard.attach(tiny, policy) as session:
        target = target_of(tiny, session)
        assert target.draw(Attempt(PROMPT, lora=back), 0) is None and target.refused == 1
        assert target.draw(Attempt(PROMPT), 0) is not None and not tiny.get_list_adapters()


def test_turning_is_undone_by_turning(tiny: Any, policy: dict[str, Any]) -> None:
    from conceptguard_plugins.attacks.inversion import upside_down

    one = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(turned(upside_down(one)), one) and not torch.allclose(turned(one), one)
    with conceptguard.attach(tiny, policy) as session:
        target = target_of(tiny, session)
        plain, other = target.draw(Attempt(PROMPT), 0), target.draw(Attempt(PROMPT, turned=True), 0)
    assert plain is not None and other is not None and torch.equal(turned(plain), other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tina", "memories"])
def test_inverted_pictures_come_back(pipe: Any, name: str) -> None:
    """On the embedded model under a guard of something else, and the control's as well: that is what it is for."""
    from conceptguard.measuring.samples import Recipe, make_once
    from conceptguard.measuring.suite import Sample
    from conceptguard.plugins import offers

    prompt = "a candle, noto style"
    made = make_once(pipe, [Sample(prompt, 0, "object", "candle")], Recipe(10, 3.5, 1))
    with conceptguard.attach(pipe, {"name": "s", "guards": [{"method": "spm", "artifact": "emoji-sd/spm/bomb"}]}) as s:
        target = target_of(pipe, s)
        target.steps, target._examples = 10, {0: made.pixels}
        attack = offers("attacks")[name](target, None, torch.Generator())
        for found in (*attack.search(Ask(prompt)), *attack.control(Ask(prompt))):
            back = target.draw(found, 0)
            assert back is not None and float((back - made.pixels[0] / 255).abs().mean()) < 0.03


def test_what_no_seed_decides_is_drawn_once(tiny: Any, policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with conceptguard.attach(tiny, policy) as session:
        target, calls = target_of(tiny, session), []
        compose = session.host.compose
        monkeypatch.setattr(session.host, "compose", lambda *given: calls.append(len(given[2])) or compose(*given))
        noise = torch.randn(target.denoiser.shape, generator=torch.Generator().manual_seed(3))
        calm, other = Attempt(PROMPT, latents=noise), Attempt(PROMPT, latents=-noise)
        found = target.draw_all([(calm, 0), (other, 1), (calm, 2)])
    assert calls == [2] and torch.equal(found[0], found[2])  # type: ignore[arg-type]
    assert not torch.equal(found[0], found[1])  # type: ignore[arg-type]


def test_attempts_of_one_kind_are_drawn_together_and_each_as_alone(
    tiny: Any, policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = random_terms(tiny, seed=0)
    back = {n: Factors(one.down, -one.up, one.scale) for n, one in own.items() if n.startswith("unet")}
    with conceptguard.attach(tiny, policy) as session:
        target, rows = target_of(tiny, session), []
        target.batch = 4
        watch = tiny.unet.register_forward_pre_hook(lambda unet, args: rows.append(len(args[0])))
        word = target.vectors()[5] * 1.5
        noises = torch.randn(3, *target.denoiser.shape, generator=torch.Generator().manual_seed(3))
        wanted = [
            *(
                (Attempt(f"{PROMPT} {more} <new>", words={"<new>": word}), i)
                for i, more in enumerate(("", "red", "two"))
            ),
            *((Attempt(PROMPT, latents=one, begin=1), 0) for one in noises),
            *((Attempt("", parts=[PROMPT, "a chair"], weights=[4.0, -1.0]), i) for i in range(2)),
            *((Attempt(PROMPT, lora=back), i) for i in range(2)),
        ]
        found = target.draw_all(wanted)
        together = len(rows)
        alone = [target.draw(*one) for one in wanted]
    watch.remove()
    assert [one is None for one in found] == [False] * 8 + [True] * 2 and target.refused == 4
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found[:8], alone[:8]))  # type: ignore[arg-type]
    assert max(rows[:together]) == 6 and together < len(rows) - together
    assert not torch.allclose(found[3], found[4], atol=1e-3)  # type: ignore[arg-type]
