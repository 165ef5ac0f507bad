"""Shapes of a call: rows, pictures of each, windows side by side, branches. Row by row what leaves is what the row gets
alone, or the whole call is refused; rows that have nothing to do with the concept are left to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from fuzzing import fuzz, one_line
from hypothesis import strategies as st
from random_artifacts import RandomTerms
from tiny import clip_tokenizer, generate, tiny_sd, tiny_sdxl

import conceptguard
from conceptguard.errors import ConceptGuardError
from conceptguard.testing.kit_guards import offered

CONCEPT = {"name": "cigarette", "prompts": ["a cigarette", "smoking"]}
GUARDS: dict[str, dict[str, Any]] = {"random-terms": {}, "sld": {}}
MAKERS: dict[str, Callable[..., Any]] = {"sd": tiny_sd, "sdxl": tiny_sdxl}
FREE, NAMED = ["a red apple", "a dog on a table", ""], ["a cigarette", "a man smoking"]
FILLER = ", ".join(["red flat simple icon sign"] * 14)  # more than a window
PROMPTS = st.sampled_from([*FREE, *NAMED])
SHAPES = st.fixed_dictionaries(
    {
        "rows": st.lists(st.tuples(PROMPTS, st.sampled_from(["", "", *FREE, *NAMED])), min_size=1, max_size=3),
        "images": st.integers(1, 2),
        "windows": st.sampled_from([0, 0, 1, 2]),  # none: prompts as text
        "scale": st.sampled_from([7.5, 7.5, 1.0]),
        "negative": st.booleans(),
        "single": st.booleans(),  # a text instead of a list of one
    }
)


@cache
def pipeline(kind: str) -> Any:
    return MAKERS[kind](clip_tokenizer())


@cache
def windows(text: str, count: int) -> torch.Tensor:
    """A prompt as tools for long prompts give it, [1, 77 * count, width]; of several it stands in the last one."""
    pipe, parts = pipeline("sd"), []
    for i in range(count):
        own = FILLER if i < count - 1 and text else text
        tokens = pipe.tokenizer(own, padding="max_length", truncation=True, return_tensors="pt", verbose=False)
        with torch.no_grad():
            parts.append(pipe.text_encoder(tokens.input_ids)[0])
    return torch.cat(parts, 1)


def call(pipe: Any, rows: list[tuple[str, str]], shape: Any, images: int, seeds: list[int]) -> torch.Tensor | None:
    """Latents, or None where guards refused the call."""
    options: dict[str, Any] = {"num_images_per_prompt": images, "guidance_scale": shape["scale"]}
    prompts: Any = [prompt for prompt, _ in rows]
    negative: Any = [own for _, own in rows]
    if shape["windows"]:
        options["prompt_embeds"] = torch.cat([windows(prompt, shape["windows"]) for prompt in prompts])
        options["negative_prompt_embeds"] = torch.cat([windows(own, shape["windows"]) for own in negative])
        prompts = None
    elif shape["single"] and len(rows) == 1:
        prompts, negative = prompts[0], negative[0]
    if not shape["windows"] and shape["negative"]:
        options["negative_prompt"] = negative
    try:
        return generate(pipe, prompts, seeds, **options)
    except ConceptGuardError as cause:
        one_line(cause)
        return None


@fuzz(8, 500, kind=st.sampled_from(["sd", "sdxl"]), method=st.sampled_from(list(GUARDS)), shape=SHAPES)
def test_rows_of_every_shape(kind: str, method: str, shape: dict[str, Any]) -> None:
    kind = "sd" if shape["windows"] else kind  # whose encoder gives all that a call needs
    pipe, rows, images = pipeline(kind), shape["rows"], shape["images"]
    seeds = [*range(len(rows) * images)]
    owners = [i // images for i in seeds]
    bare = call(pipe, rows, shape, images, seeds)
    assert bare is not None and len(bare) == len(seeds)
    guard = {"method": method, "concept": CONCEPT, **GUARDS[method]}
    with offered(RandomTerms), conceptguard.attach(pipe, {"guards": [guard]}) as session:
        got = call(pipe, rows, shape, images, seeds)
        told = session.receipt
        alone = [call(pipe, [rows[own]], shape, 1, [seed]) for seed, own in zip(seeds, owners)]
    if got is None:
        assert any(one is None for one in alone), "refused, though no row of it is refused alone"
        return
    assert all(one is not None for one in alone), "a row that is refused alone passes in a batch"
    assert len(told.rows) >= len(rows) and got.shape == bare.shape and torch.isfinite(got).all()
    counts = shape["negative"] or shape["windows"]
    for i, own in enumerate(owners):
        prompt, negative = rows[own]
        one = alone[i]
        assert one is not None
        assert (got[i] - one[0]).abs().max() <= 2e-3 * one.abs().max(), f"row {i} is not what it gets alone"
        if prompt == "a cigarette" or (prompt in NAMED and not shape["windows"]):
            assert not torch.equal(got[i], bare[i]), f"row {i} names the concept, and no guard acts on it"
        elif not (counts and negative in NAMED) or method == "sld":
            assert torch.equal(got[i], bare[i]), f"row {i} has nothing to do with the concept, and is another picture"
