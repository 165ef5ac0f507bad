"""SLD and negative guidance: the formulas, and that what the host combines is what they say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.sld import LEVELS, safety_guidance
from paths import DATA
from safetensors.torch import load_file
from tiny import clip_tokenizer, generate, tiny_sdxl

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import GuardError
from conceptguard.generation.denoising import Drawn, Step
from conceptguard.testing.kit_guards import Beside, offered

CONCEPT = {"name": "cigarette", "prompts": ["cigarette", "smoking"]}
PROMPT = "a man smoking a cigarette"
PARITY = load_file(DATA / "parity_sld.safetensors")


def policy(method: str, **settings: Any) -> dict[str, Any]:
    return {"guards": [{"method": method, "concept": CONCEPT, **settings}]}


@contextmanager
def combined(pipe: Any) -> Iterator[list[tuple[torch.Tensor, int, torch.Tensor]]]:
    """(latents, timestep, guided prediction) as the scheduler gets them."""
    seen: list[Any] = []
    own = pipe.scheduler.step

    def step(prediction: torch.Tensor, t: Any, latents: torch.Tensor, **kwargs: Any) -> Any:
        seen.append((latents.clone(), int(t), prediction.clone()))
        return own(prediction, t, latents, **kwargs)

    pipe.scheduler.step = step
    try:
        yield seen
    finally:
        del pipe.scheduler.step


@pytest.mark.parametrize("level", LEVELS)
def test_sld_arithmetic_is_the_authors(level: str) -> None:
    nothing, prompt, concept = (PARITY[name] for name in ("nothing", "prompt", "concept"))
    momentum = torch.zeros_like(nothing[0])
    for i, (u, p, s) in enumerate(zip(nothing, prompt, concept)):
        g, momentum = safety_guidance(p, s, u, momentum, LEVELS[level])
        shown = p - g if i >= LEVELS[level].warmup else p
        assert torch.allclose(u + 7.5 * (shown - u), PARITY[level][i], atol=1e-4), i


def _predict(pipe: Any, latents: torch.Tensor, t: int, text: str) -> torch.Tensor:
    with torch.no_grad():
        return pipe.unet(latents, t, encoder_hidden_states=pipe.encode_prompt(text, "cpu", 1, False)[0]).sample


GUIDANCES = ["sld", "negative_guidance", "ant", "trce"]


@pytest.mark.parametrize("negative", ["", "blurry"])
@pytest.mark.parametrize("method", GUIDANCES)
def test_the_guided_prediction_is_the_formula(tiny: Any, method: str, negative: str) -> None:
    whole = {"ant": {"early": 0.0}, "trce": {"early": 1.0}}.get(method, {})
    rules = policy(method, gate="always", **whole)
    rules["guards"][0]["concept"] = {**CONCEPT, "replacement": "a candle"}
    with conceptguard.attach(tiny, rules) as session, combined(tiny) as seen:
        generate(tiny, PROMPT, negative_prompt=negative, num_inference_steps=3, guidance_scale=5.0)
        assert session.receipt.acts[0].steps == [0, 1, 2] and session.receipt.steps == 3
    momentum = torch.zeros(1, 4, 8, 8)
    near = 2e-3 if method == "sld" else 1e-4  # SLD multiplies the difference of two predictions, and its rounding
    for latents, t, got in seen:
        u, p, s = (_predict(tiny, latents, t, text) for text in (negative, PROMPT, "cigarette, smoking"))
        if method == "sld":
            g, momentum = safety_guidance(p, s, u, momentum, LEVELS["max"])
        elif method == "trce":
            g = s - _predict(tiny, latents, t, "a candle")
        else:
            g = (2 if method == "ant" else 1) * (s - u)
        assert torch.allclose(got, u + 5.0 * ((p - u) - g), atol=near)
        assert not torch.allclose(got, u + 5.0 * (p - u), atol=2 * near)


@pytest.mark.parametrize(("method", "steps"), [("ant", [1, 2, 3, 4, 5, 6, 7, 8, 9]), ("trce", [0, 1, 2, 3, 4])])
def test_which_steps_are_steered(tiny: Any, method: str, steps: list[int]) -> None:
    """Early ones shape the picture, late ones its details: ANT leaves the first seventh, TRCE takes the first half.

    In the others the denoiser is called once, as without a guard.
    """
    times: list[int] = []
    with conceptguard.attach(tiny, policy(method)) as session:
        hook = tiny.unet.time_proj.register_forward_hook(lambda _, given, out: times.append(int(given[0][0])))
        generate(tiny, PROMPT, num_inference_steps=10)
        hook.remove()
        assert session.receipt.acts[0].steps == steps
    assert [i for i, time in enumerate(dict.fromkeys(times)) if times.count(time) > 1] == steps


def test_warm_up_is_counted_in_steps_and_momentum_begins_anew(tiny: Any) -> None:
    with conceptguard.attach(tiny, policy("sld", level="strong")) as session:
        first = generate(tiny, PROMPT, num_inference_steps=9)
        assert session.receipt.acts[0].steps == [7, 8]
        assert torch.equal(generate(tiny, PROMPT, num_inference_steps=9), first)


@pytest.mark.parametrize("method", GUIDANCES)
def test_without_guidance_it_says_so(tiny: Any, method: str) -> None:
    bare = generate(tiny, "a red apple", guidance_scale=1.0)
    with conceptguard.attach(tiny, policy(method)):
        with pytest.raises(GuardError, match=rf"'{method} cigarette' needs classifier-free.*guidance_scale 1") as e:
            generate(tiny, PROMPT, guidance_scale=1.0)
        assert "\n" not in str(e.value)
        assert torch.equal(generate(tiny, "a red apple", guidance_scale=1.0), bare)


@pytest.mark.parametrize("method", GUIDANCES)
def test_a_batch_in_which_one_row_is_guarded(tiny: Any, method: str) -> None:
    prompts = ["a red apple", PROMPT, "a small dog"]
    bare = generate(tiny, prompts)
    with conceptguard.attach(tiny, policy(method)) as session:
        got = generate(tiny, prompts)
        alone = generate(tiny, PROMPT, seeds=[1])
        gates = session.receipt.acts[0].gates
    assert torch.equal(got[0], bare[0]) and torch.equal(got[2], bare[2])
    assert not torch.allclose(got[1], bare[1], atol=1e-3) and torch.allclose(got[1], alone[0], atol=1e-3)
    assert [bool(gate) for gate in gates] == [False, True]


def test_a_negative_prompt_that_names_the_concept_opens_nothing(tiny: Any) -> None:
    bare = generate(tiny, "a red apple", negative_prompt="cigarette")
    with conceptguard.attach(tiny, policy("sld")) as session:
        assert torch.equal(generate(tiny, "a red apple", negative_prompt="cigarette"), bare)
        assert session.receipt.acts[0].gates == [0, 0]


PHRASE = "a cigarette"


def policy_of(method: str, **settings: Any) -> dict[str, Any]:
    """A guard whose concept is one phrase."""
    return {"guards": [{"method": method, "concept": {"name": "it", "prompts": [PHRASE]}, **settings}]}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("apart", [0.0, 1e-6, 0.02])
def test_sld_takes_the_whole_concept_off_what_is_next_to_it(level: str, apart: float) -> None:
    """Each row by itself; the other one is far from the concept, and there the authors' formula holds."""
    concept, nothing, other = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    near = concept + apart * (other - concept)
    both = torch.stack([near, other]), concept.expand(2, -1, -1, -1), nothing.expand(2, -1, -1, -1)
    g, momentum = safety_guidance(*both, torch.zeros(2, 4, 8, 8), LEVELS[level])
    assert torch.equal(g[0], concept - nothing)
    assert torch.allclose(momentum[0], (1 - LEVELS[level].decay) * g[0])
    apart_from = other - concept
    mu = (apart_from.abs() * LEVELS[level].scale).clamp(max=1) * (apart_from < LEVELS[level].threshold)
    assert torch.equal(g[1], mu * (concept - nothing))


def test_sld_on_the_concepts_own_phrase(tiny: Any) -> None:
    """Where prompt and concept are one text they predict alike, and all of that is the concept's."""
    with conceptguard.attach(tiny, policy_of("sld")) as session, combined(tiny) as seen:
        generate(tiny, PHRASE, num_inference_steps=1)
        assert session.receipt.acts[0].steps == [0]
    ((latents, t, got),) = seen
    assert torch.allclose(got, _predict(tiny, latents, t, ""), atol=1e-4)


@pytest.mark.parametrize("method", GUIDANCES)
def test_a_negative_prompt_of_the_concept_is_not_what_is_left(tiny: Any, method: str) -> None:
    """Guidance from the concept to the concept goes nowhere: the way is taken from nothing."""
    whole = {"ant": {"early": 0.0}, "trce": {"early": 1.0}}.get(method, {})
    with conceptguard.attach(tiny, policy_of(method, **whole)) as session, combined(tiny) as seen:
        generate(tiny, PHRASE, negative_prompt=PHRASE, num_inference_steps=1, guidance_scale=5.0)
        assert session.receipt.acts[0].gates == [0, 1]
    ((latents, t, got),) = seen
    concept, nothing = (_predict(tiny, latents, t, text) for text in (PHRASE, ""))
    g = (2 if method == "ant" else 1) * (concept - nothing)
    assert torch.allclose(got, concept - 5.0 * g, atol=1e-4)


@pytest.mark.parametrize("method", ["sld", "ant"])
def test_a_negative_prompt_that_may_be_drawn_is_not_turned_into_its_opposite(tiny: Any, method: str) -> None:
    """In a caller's own loop: away from less than nothing of the concept is towards it."""
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    concept, nothing = (_predict(tiny, x, 500, text) for text in (PHRASE, ""))
    with conceptguard.attach(tiny, policy_of(method)) as session, torch.no_grad():
        towards, away = tiny.encode_prompt("a dog", "cpu", 1, True, negative_prompt=PHRASE)
        for t in (501, 500):  # sld's momentum pushes it further at the second step
            got = tiny.unet(x.repeat(2, 1, 1, 1), t, torch.cat([away, towards])).sample
        assert session.receipt.acts[0].gates == [1, 0]
    left = ((got[:1] - nothing) * (concept - nothing)).sum() / (concept - nothing).pow(2).sum()
    assert abs(float(left)) < 1e-2


def test_the_concepts_own_phrase_is_not_drawn(pipe: Any) -> None:
    """Alone, and with itself as negative prompt."""
    from conceptguard.measuring.judges import load_judge

    def drawn() -> list[str]:
        generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        options: dict[str, Any] = {"num_inference_steps": 8, "guidance_scale": 3.5, "output_type": "pt"}
        images = pipe([PHRASE] * 2, negative_prompt=["", PHRASE], generator=generators, **options).images
        return judge.judge(images).objects  # type: ignore[no-any-return]

    judge = load_judge("emoji-sd")
    assert drawn() == ["cigarette"] * 2
    with conceptguard.attach(pipe, policy_of("sld")):
        assert "cigarette" not in drawn()


@pytest.mark.parametrize("rows", [1, 2])
def test_guidance_that_a_callback_turns_off(tiny: Any, rows: int) -> None:
    """What is left of the batch are prompts: none of them is taken for the negative prompt of the same words."""

    def off(pipe: Any, index: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 0.0
        return {"prompt_embeds": values["prompt_embeds"][-rows:]}

    with conceptguard.attach(tiny, policy("safree", positions="all", alpha=0.0, schedule=False)) as session:
        more = {"callback_on_step_end": off, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
        generate(tiny, [PROMPT] * rows, negative_prompt=[PROMPT] * rows, **more)
        found = [(row.branch, gate) for row, gate in zip(session.receipt.rows, session.receipt.acts[0].gates)]
        # of both kinds of call
        assert found == [("negative", 0)] * rows + [("conditional", 1)] * 2 * rows


@pytest.mark.parametrize(("scale", "towards"), [
    (7.5, [2, 3]), (1.0, [2, 3]), (0.5, [1, 2, 3]), (0.0, [1, 3]), (-2.0, [1, 3]), (None, [1, 2, 3]),
])  # fmt: skip
def test_which_rows_a_picture_is_drawn_towards(scale: float | None, towards: list[int]) -> None:
    """(1 - w) ε_n + w ε_p: what has a positive share, and what nobody knows; never an empty text."""
    assert Drawn.of(["unconditional", "negative", "conditional", None], scale).towards == towards


@pytest.mark.parametrize(("scale", "away"), [
    (7.5, {1: 0}), (1.0, {1: None}), (0.5, {0: None, 1: None}), (0.0, {0: None}), (-2.0, {0: 1}),
    (None, {0: None, 1: None}),
])  # fmt: skip
def test_what_guidance_takes_a_row_away_from(scale: float | None, away: dict[int, int | None]) -> None:
    assert Drawn.of(["negative", "conditional"], scale).away_from() == away


@pytest.mark.parametrize(("asked", "scale"), [
    ({}, 7.5), ({"guidance_scale": 3.0}, 3.0), ({"guidance_scale": 0.0}, 1.0), ({"guidance_scale": -4.0}, 1.0),
    ({"guidance_scale": 3.0, "guidance_rescale": 0.7}, 3.0), ({"guidance_scale": 3.0, "guidance_rescale": 40.0}, None),
])  # fmt: skip
def test_the_scale_that_a_pipeline_draws_with(tiny: Any, asked: dict[str, float], scale: float | None) -> None:
    with conceptguard.attach(tiny, policy("sld")) as session:
        told: list[Any] = []

        def look(pipe: Any, index: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
            told.append(session.guidance_scale)
            return values

        generate(tiny, "a red apple", num_inference_steps=1, callback_on_step_end=look, **asked)
    assert told == [scale]


def test_strength_and_scale(tiny: Any) -> None:
    bare = generate(tiny, PROMPT, num_inference_steps=1)
    far = []
    for settings in ({}, {"strength": 0.5}, {"scale": 0.5}):
        with conceptguard.attach(tiny, policy("negative_guidance", **settings)):
            far.append(generate(tiny, PROMPT, num_inference_steps=1) - bare)
    assert torch.allclose(far[0], 2 * far[1], atol=1e-4) and torch.allclose(far[1], far[2], atol=1e-6)


class Asks(Method):
    """Asks for another prediction at every step and changes nothing."""

    name = "asks"
    needs = "nothing"
    told: list[tuple[Step, torch.Tensor]] = []

    @hookimpl
    def predict_noise(self, step: Step) -> None:
        assert step.denoise is not None
        self.told.append((step, step.denoise(self.host.encode(["a bridge"]), [1])))


def test_the_extra_prediction_is_the_models_own(tiny: Any) -> None:
    """On the same latents, under the other text, without the guards beside; and it counts as no step."""
    Asks.told.clear()
    with offered(Asks) as asks, offered(Beside) as beside:
        with conceptguard.attach(tiny, {"guards": [asks, beside]}) as session:
            generate(tiny, "a red apple")
            assert session.receipt.steps == 2 and session.receipt.acts[1].steps == [0, 1]
        for step, got in Asks.told:
            assert torch.allclose(got, _predict(tiny, step.latents[1:], int(step.timestep), "a bridge"), atol=1e-5)
        assert [step.moment.step for step, _ in Asks.told] == [0, 1]
    Asks.told.clear()


def test_sdxl() -> None:
    pipe = tiny_sdxl(clip_tokenizer())
    for method in GUIDANCES:
        bare = generate(pipe, ["a red apple", PROMPT])
        with conceptguard.attach(pipe, policy(method)):
            got = generate(pipe, ["a red apple", PROMPT])
        assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1], atol=1e-3)
