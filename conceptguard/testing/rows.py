"""Promise 4: row i of a batch gets what it would get alone, whatever the batch is made of."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import ConceptGuardError, GuardError
from ..plugins import host_for
from .bench import Bench, acted, close
from .case import NotApplicable, demand


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


def _needs(bench: Bench, argument: str) -> None:
    if not bench.takes(argument):
        raise NotApplicable(f"this pipeline takes no {argument}")


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
    _needs(bench, "num_images_per_prompt")
    prompts = [bench.case.unrelated[0], bench.case.opens]
    bare = bench.bare(prompts, num_images_per_prompt=2)
    for i, prompt in enumerate(p for p in prompts for _ in range(2)):
        if not close(bare[i], bench.bare([prompt], [i])[0], 1e-3):
            raise NotApplicable("unguarded, too, several images per prompt are not what they are alone")
    with bench.attached():
        alone = _one_by_one(bench, [(p, {}) for p in prompts for _ in range(2)])
        got = bench.attempt(prompts, num_images_per_prompt=2)
        _demand_rows(bench, got, bare, alone, {2, 3}, "two images per prompt")


def negative_prompts(bench: Bench) -> None:
    """A negative prompt that names the concept concerns its own row only."""
    _needs(bench, "negative_prompt")
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
    """Without classifier-free guidance there is one row per image, guarded all the same, or an error says why not."""
    prompts, off = [bench.case.unrelated[0], bench.case.opens], bench.case.unguided
    if off is None:
        raise NotApplicable("this pipeline's calls have no say in guidance")
    bare = bench.bare(prompts, **off)
    with bench.attached():
        try:
            alone = _one_by_one(bench, [(p, dict(off)) for p in prompts])
            got = bench.attempt(prompts, **off)
        except GuardError as error:
            demand("guidance" in str(error), f"guidance off: an error that is not about that: {error}")
            one = bench.attempt(prompts[:1], **off)
            demand(close(one, bare[:1]), "guidance off: an unrelated prompt, too, is an error or another picture")
            return
        _demand_rows(bench, got, bare, alone, {1}, "guidance off")


def prompt_embeds(bench: Bench) -> None:
    """Embeddings instead of text are guarded or refused, never let through."""

    _needs(bench, "negative_prompt_embeds")
    host: Any = host_for(bench.pipe)

    def encoded(prompt: str) -> tuple[dict[str, Tensor], Tensor]:
        both = host.encode([prompt, ""])
        found = {"prompt_embeds": both.embeds[:1], "negative_prompt_embeds": both.embeds[1:]}
        if both.pooled is not None:
            found |= {"pooled_prompt_embeds": both.pooled[:1], "negative_pooled_prompt_embeds": both.pooled[1:]}
        return found, bench.generate(bench.pipe, None, [0], **found)

    for prompt, opens in ((bench.case.unrelated[0], False), (bench.case.opens, True)):
        embeds, bare = bench.unguarded(["embeds", prompt], partial(encoded, prompt))
        with bench.attached():
            try:
                got = bench.generate(bench.pipe, None, [0], **embeds)
            except ConceptGuardError:
                continue  # a method that needs the text says so, and nothing is generated
        if opens:
            demand(acted(bare, got), f"the embeddings of {prompt!r} pass unguarded")
        else:
            demand(torch.equal(bare, got), f"the embeddings of the unrelated prompt {prompt!r} change the picture")
