"""SAFREE: its arithmetic against the authors', and what reaches the denoiser of whole pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.safree.math import basis, beta, distances, into, projected, safe_steps, triggers
from paths import DATA
from safetensors.torch import load_file
from tiny import clip_tokenizer, generate, tiny_sdxl

import conceptguard
from conceptguard.errors import GuardError, PolicyError

CONCEPT = {"name": "cigarette", "prompts": ["cigarette", "smoking"]}
PARITY = load_file(DATA / "parity_safree.safetensors")


def safree(**settings: Any) -> dict[str, Any]:
    """On a random encoder no threshold is meaningful: gate and alpha let every prompt through to the arithmetic."""
    return {"guards": [{"method": "safree", "concept": CONCEPT, "gate": "always", "alpha": 0.0, **settings}]}


@contextmanager
def denoiser_sees(pipe: Any) -> Iterator[list[torch.Tensor]]:
    """The conditions of every denoiser call, as they arrive behind all guards."""
    seen: list[torch.Tensor] = []
    forward = pipe.unet.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append((kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]).clone())
        return forward(*args, **kwargs)

    pipe.unet.forward = watched
    try:
        yield seen
    finally:
        del pipe.unet.forward


@pytest.mark.parametrize("name", ["short", "long"])
def test_official_projection_and_schedule(name: str) -> None:
    concept, masked, text = (PARITY[f"{name}.{part}"] for part in ("concept", "masked", "text"))
    c, i = basis(concept), basis(masked)
    full = projected(text, i, c, official=True)
    assert torch.allclose(full, PARITY[f"{name}.projected"], atol=1e-5, rtol=0)
    found = triggers(distances(masked, c), torch.ones(len(masked), dtype=torch.bool), 0.01)
    safe = text.clone()
    safe[1 : 1 + len(masked)][found] = full[1 : 1 + len(masked)][found]
    assert 0 < found.sum() < len(masked)
    assert torch.allclose(safe, PARITY[f"{name}.safe"], atol=1e-5, rtol=0)
    attended = torch.arange(len(text)) < len(masked) + 2
    assert abs(float(beta(text, full, attended)) - float(PARITY[f"{name}.beta"])) < 1e-5


@pytest.mark.parametrize("name, t0, k", [("nudity", 5.333, 2.5), ("artists", 5.5, 3.5)])
def test_official_schedule_over_all_betas(name: str, t0: float, k: float) -> None:
    assert torch.equal(safe_steps(PARITY["schedule.beta"], 10, t0, k), PARITY[f"schedule.{name}"])


def test_the_papers_order_stays_in_the_inputs_subspace() -> None:
    concept, masked, text = (PARITY[f"long.{part}"] for part in ("concept", "masked", "text"))
    c, i = basis(concept), basis(masked)
    safe = projected(text, i, c)
    assert torch.allclose(into(safe, i), safe, atol=1e-5)
    assert not torch.allclose(into(PARITY["long.projected"], i), PARITY["long.projected"], atol=1e-2)


def test_padding_and_repetition_are_no_directions() -> None:
    masked = PARITY["short.masked"]
    padded = torch.cat([masked, torch.zeros(3, masked.shape[1])])
    repeated = torch.cat([masked, masked, masked.sum(0, keepdim=True)])
    x = PARITY["short.text"]
    for other in (padded, repeated, torch.stack([padded, padded])):
        wanted = into(x, basis(masked)).expand(*other.shape[:-2], -1, -1)
        assert torch.allclose(into(x, basis(other)), wanted, atol=1e-5)
    both = triggers(torch.tensor([[1.0, 2.0, 0.0], [1.0, 1.0, 4.0]]), torch.tensor([[1, 1, 0], [1, 1, 1]]).bool(), 0.01)
    assert both.tolist() == [[False, True, False], [False, False, True]]


def test_one_word_is_compared_with_the_whole_prompt() -> None:
    one = torch.ones(2, 1, dtype=torch.bool)
    assert triggers(torch.tensor([[2.0], [1.0]]), one, 0.01, torch.tensor([1.0, 1.0])).tolist() == [[True], [False]]


def test_token_ids_are_encoded_as_the_pipeline_encodes_text(tiny: Any) -> None:
    for pipe in (tiny, tiny_sdxl(clip_tokenizer())):
        with conceptguard.attach(pipe, {"guards": []}) as session:
            texts = ["a small dog", "a", "a very long sentence about a bridge, and ships"]
            own, encoders = session.host.encode(texts), session.host.encoders()
            assert sum(e.width.stop - e.width.start for e in encoders) == own.embeds.shape[-1]
            for encoder in encoders:
                ids = encoder.ids(texts)
                states, pooled = encoder.encode(ids)
                for row, tokens in enumerate(ids):
                    end = len(tokens) + 2
                    assert torch.allclose(own.embeds[row, :end, encoder.width], states[row, :end], atol=1e-5)
                if encoder.pooled is not None:
                    assert torch.allclose(own.pooled[:, encoder.pooled], pooled, atol=1e-5)


def test_safe_embeddings_for_the_first_steps_only(tiny: Any) -> None:
    prompts = ["a man smoking a cigarette", "a bridge"]
    with denoiser_sees(tiny) as bare:
        generate(tiny, prompts, num_inference_steps=6)
    with conceptguard.attach(tiny, safree(t0=-100.0, up_t=4)) as session, denoiser_sees(tiny) as seen:
        generate(tiny, prompts, num_inference_steps=6)
        act = session.receipt.acts[0]
    changed = [not torch.equal(a, b) for a, b in zip(seen, bare)]
    assert changed == [True] * 4 + [False] * 2 and act.steps == [0, 1, 2, 3]
    assert torch.equal(seen[0][:2], bare[0][:2]), "unconditional rows are nobody's concept"
    ids = clip_tokenizer()(prompts[0], add_special_tokens=False).input_ids
    moved = (seen[0][2] != bare[0][2]).any(-1).nonzero()[:, 0].tolist()
    assert moved and set(moved) <= set(range(1, len(ids) + 1)), "the paper touches trigger tokens only"
    words = [clip_tokenizer().decode([ids[i - 1]]).strip() for i in moved]
    note = next(note for note in act.notes if prompts[0] in note)
    assert all(repr(word) in note for word in words) and "at most 4 steps" in note


def test_schedule_is_per_prompt(tiny: Any) -> None:
    """Each row of a batch gets the steps it gets alone."""
    prompts = ["a man smoking a cigarette", "one bridge over a river in the evening", "dog"]
    with conceptguard.attach(tiny, safree(t0=9.0, k=0.3)), denoiser_sees(tiny) as together:
        generate(tiny, prompts, num_inference_steps=8)
    for row, prompt in enumerate(prompts):
        with conceptguard.attach(tiny, safree(t0=9.0, k=0.3)), denoiser_sees(tiny) as alone:
            generate(tiny, prompt, num_inference_steps=8)
        assert all(torch.allclose(a[1], t[3 + row], atol=1e-5) for a, t in zip(alone, together))


def test_a_batch_is_read_in_one_encoder_call(tiny: Any) -> None:
    calls: list[int] = []
    with conceptguard.attach(tiny, safree()):
        handle = tiny.text_encoder.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
        try:
            generate(tiny, ["a man smoking", "a small red dog", "a man smoking"])
        finally:
            handle.remove()
    assert calls == [3, 3, 4 + 5], "the pipeline's own two, and one for two distinct prompts: each token, and the whole"


def test_all_positions(tiny: Any) -> None:
    with denoiser_sees(tiny) as bare:
        generate(tiny, "a cigarette")
    with conceptguard.attach(tiny, safree(positions="all", schedule=False)), denoiser_sees(tiny) as seen:
        generate(tiny, "a cigarette")
    moved = (seen[1][1] != bare[1][1]).any(-1)
    assert bool(moved[3:].all()) and not moved[0]


def test_a_word_cannot_hide_behind_its_repetition(tiny: Any) -> None:
    with conceptguard.attach(tiny, safree()) as session:
        method = session.methods[0]
        alone, often = ("cigarette",), ("cigarette cigarette cigarette",)
        method._read([often, alone])
        first, third = (method._readings[prompt].parts[0][0].positions for prompt in (alone, often))
    assert bool(first[1]) == bool(third[1:4].all()) == bool(third[1:4].any())


def test_negative_prompt_joins_the_callers_own(tiny: Any) -> None:
    settings = {"projection": False, "negative_prompt": True}
    with conceptguard.attach(tiny, safree(**settings)) as session, denoiser_sees(tiny) as seen:
        generate(tiny, ["a man", "a bridge"], negative_prompt=["blurry", ""])
        wanted = session.host.encode(["blurry, cigarette, smoking", "cigarette, smoking"]).embeds
        plain = session.host.encode(["a man", "a bridge"]).embeds
        assert session.receipt.acts[0].steps == [0, 1]
    assert torch.allclose(seen[0], torch.cat([wanted, plain]), atol=1e-5)
    with conceptguard.attach(tiny, safree(**settings)), pytest.raises(GuardError, match="needs classifier-free"):
        generate(tiny, "a man", guidance_scale=1.0)


def test_embeddings_are_recognised_or_refused(tiny: Any) -> None:
    text = "a man smoking a cigarette"
    unknown = tiny.encode_prompt(text, "cpu", 1, False)[0]
    with conceptguard.attach(tiny, safree()) as session:
        with pytest.raises(GuardError, match="reads the words of a prompt"):
            generate(tiny, None, prompt_embeds=unknown, negative_prompt_embeds=unknown)
        typed = generate(tiny, text)
        known, nothing = tiny.encode_prompt(text, "cpu", 1, True)
        assert torch.equal(generate(tiny, None, prompt_embeds=known, negative_prompt_embeds=nothing), typed)
        rows = [(row.text, row.branch) for row in session.receipt.rows]
    assert rows == [("", "unconditional"), (text, "conditional")]


def test_the_concept_as_prompt_and_negative_prompt_at_once(tiny: Any) -> None:
    """Two rows with one embedding: the one a picture is drawn towards must not pass for the other."""
    with conceptguard.attach(tiny, safree(schedule=False)) as session, denoiser_sees(tiny) as seen:
        generate(tiny, "a cigarette", negative_prompt="a cigarette")
        assert [row.branch for row in session.receipt.rows] == ["negative", "conditional"]
    assert not torch.equal(seen[0][0], seen[0][1])


def test_sdxl_both_encoders_and_pooled() -> None:
    pipe = tiny_sdxl(clip_tokenizer())
    text = "a man smoking a cigarette"
    pooled: list[torch.Tensor] = []
    forward = pipe.unet.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        pooled.append(kwargs["added_cond_kwargs"]["text_embeds"].clone())
        return forward(*args, **kwargs)

    with denoiser_sees(pipe) as bare:
        generate(pipe, text)
    with conceptguard.attach(pipe, safree(positions="all", schedule=False)), denoiser_sees(pipe) as seen:
        pipe.unet.forward, inner = watched, pipe.unet.forward
        forward = inner
        generate(pipe, text)
        own = pipe.encode_prompt(text, device="cpu")[2]
    half = bare[0].shape[-1] // 2
    assert not torch.allclose(seen[0][1, :, :half], bare[0][1, :, :half])
    assert not torch.allclose(seen[0][1, :, half:], bare[0][1, :, half:])
    assert not torch.allclose(pooled[0][1], own[0]) and torch.equal(seen[0][0], bare[0][0])


def test_long_phrases_are_split_and_long_lists_told(tiny: Any) -> None:
    long = " ".join(["a cigarette by the river"] * 40)
    guard = {"method": "safree", "gate": "always", "concept": {"name": "x", "prompts": [long, "smoke"]}}
    with conceptguard.attach(tiny, {"guards": [guard]}) as session:
        method = session.methods[0]
        assert method._concepts[0][0].shape[0] == -(-200 // session.host.window) + 1
        generate(tiny, "a man")
    for other in ({**guard, "negative_prompt": True}, {"method": "sld", "concept": guard["concept"]}):
        with pytest.raises(PolicyError, match=r"20[12] tokens"):
            conceptguard.attach(tiny, {"guards": [other]})
    many = {"name": "x", "prompts": [f"thing number {i}" for i in range(60)]}
    with pytest.raises(PolicyError, match=r"span all 32 dimensions .* fewer phrases"):
        conceptguard.attach(tiny, {"guards": [{**guard, "concept": many}]})


def test_switches_that_leave_nothing_are_an_error(tiny: Any) -> None:
    with pytest.raises(PolicyError, match="both off"):
        conceptguard.attach(tiny, safree(projection=False))


@pytest.mark.parametrize(
    "prompt",
    ["", " ", "x" * 10_000, "cigarette " * 2_000, "сигарета", "香烟 タバコ", "סיגריה", "🚬🚬🚬", "\x00\n\t"],
    ids=["empty", "blank", "one-long-word", "long", "cyrillic", "han", "hebrew", "emoji", "control"],
)
def test_any_text_gets_an_answer(tiny: Any, prompt: str) -> None:
    for settings in ({}, {"positions": "all", "schedule": False}, {"compat": "official"}):
        with conceptguard.attach(tiny, safree(**settings)):
            assert bool(generate(tiny, [prompt, "a man smoking"]).isfinite().all())
