"""Promise 4: row i of a batch gets what it would get alone, whatever the batch is made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ConceptGuardError
from .bench import Bench, acted, close
from .case import demand


def _demand_rows(
    bench: Bench, got: Tensor | None, bare: Tensor, alone: list[Tensor | None], opens: set[int], what: str
) -> None:
    """Rows in ``opens`` equal what they are alone, all others equal the unguarded batch to the last bit."""
    if any(one is None for one in alone):
        demand(got is None, f"{what}: a prompt that is refused alone passes in a batch")
        return
    demand(got is not None, f"{what}: refused, though no prompt of it is refused alone")
    assert got is not None
    for i, one in enumerate(alone):
        assert one is not None
        if i in opens:
            demand(acted(bare[i], got[i]), f"{what}: the guard does not act on row {i}")
            demand(close(got[i], one[0], 1e-3), f"{what}: row {i} differs from what it gets alone")
        else:
            demand(torch.equal(got[i], bare[i]), f"{what}: row {i} is unrelated, and another row changes it")


def _one_by_one(bench: Bench, rows: list[tuple[str, dict[str, Any]]]) -> list[Tensor | None]:
    return [bench.attempt([prompt], [i], **options) for i, (prompt, options) in enumerate(rows)]


def rows_are_separate(bench: Bench) -> None:
    """A list of prompts in which one opens the guard."""
    first, second = bench.case.unrelated
    prompts = [first, bench.case.opens, second]
    bare = bench.bare(prompts)
    with bench.attached():
        alone = _one_by_one(bench, [(p, {}) for p in prompts])
        _demand_rows(bench, bench.attempt(prompts), bare, alone, {1}, "a list of prompts")


def several_images_per_prompt(bench: Bench) -> None:
    """Two images of each prompt."""
    prompts = [bench.case.unrelated[0], bench.case.opens]
    bare = bench.bare(prompts, num_images_per_prompt=2)
    with bench.attached():
        alone = _one_by_one(bench, [(p, {}) for p in prompts for _ in range(2)])
        got = bench.attempt(prompts, num_images_per_prompt=2)
        _demand_rows(bench, got, bare, alone, {2, 3}, "two images per prompt")


def negative_prompts(bench: Bench) -> None:
    """A negative prompt that names the concept concerns its own row only."""
    prompts, negative = list(bench.case.unrelated), [bench.case.opens, ""]
    bare = bench.bare(prompts, negative_prompt=negative)
    with bench.attached() as session:
        alone = _one_by_one(bench, [(p, {"negative_prompt": [n]}) for p, n in zip(prompts, negative)])
        got = bench.attempt(prompts, negative_prompt=negative)
        seen = [row.branch for row in session.receipt.rows]
    if got is None or alone[0] is None:
        demand(got is alone[0], "a negative prompt is refused alone and passes in a batch, or the other way round")
        return
    assert alone[1] is not None
    demand(close(got[0], alone[0], 1e-3), "a negative prompt: row 0 differs from what it gets alone")
    demand(torch.equal(got[1], bare[1]), "a negative prompt of row 0 changes row 1")
    demand(seen.count("negative") == 1, f"the receipt does not tell one negative row: {seen}")


def guidance_off(bench: Bench) -> None:
    """Without classifier-free guidance there is one row per image, guarded all the same."""
    prompts = [bench.case.unrelated[0], bench.case.opens]
    bare = bench.bare(prompts, guidance_scale=1.0)
    with bench.attached():
        alone = _one_by_one(bench, [(p, {"guidance_scale": 1.0}) for p in prompts])
        got = bench.attempt(prompts, guidance_scale=1.0)
        _demand_rows(bench, got, bare, alone, {1}, "guidance off")


def prompt_embeds(bench: Bench) -> None:
    """Embeddings instead of text are guarded or refused, never let through."""

    def encoded(prompt: str) -> dict[str, Tensor]:
        both = bench.pipe.encode_prompt(prompt, bench.pipe._execution_device, 1, True)
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        return dict(zip(names, both))

    for prompt, opens in ((bench.case.unrelated[0], False), (bench.case.opens, True)):
        embeds = encoded(prompt)
        bare = bench.generate(bench.pipe, None, [0], **embeds)
        with bench.attached():
            try:
                got = bench.generate(bench.pipe, None, [0], **embeds)
            except ConceptGuardError:
                continue  # a method that needs the text says so, and nothing is generated
        if opens:
            demand(acted(bare, got), f"the embeddings of {prompt!r} pass unguarded")
        else:
            demand(torch.equal(bare, got), f"the embeddings of the unrelated prompt {prompt!r} change the picture")
