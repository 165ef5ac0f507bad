"""What a report card is read from: the same prompts and seeds without and with a policy, and what each guard did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...errors import GuardError, Refused
from ...policy import Policy
from ...receipt import Receipt
from ...sessions.attach import attach
from .. import suite as suites
from ..judges import Judges, recognised
from ..samples import Pictures, Recipe, Tick, make, make_groups_once
from ..suite import Sample, Suite
from ..told import acts

GROUPS = ("erased", "neighbours", "others")


@dataclass
class Pair:
    """One prompt and seed, without and with the policy.

    concept: what it is about, nothing of what has to do with none; group: one of ``GROUPS``
    before, after: uint8 [3, h, w]; after is None where the policy let nothing out
    shown_before, shown_after: whether the judge sees what the prompt asks for; agree: whether a second judge says the
    same of both, None where there is none
    identical: the same to the last bit; None where that was not compared, as batches were others
    acted, found, refused: what guards did, in words
    """

    concept: str
    group: str
    sample: Sample
    before: Tensor
    after: Tensor | None
    shown_before: bool = False
    shown_after: bool = False
    agree: bool | None = None
    identical: bool | None = None
    acted: str = ""
    found: str = ""
    refused: str = ""


def asked_for(
    suite: Suite, concepts: Sequence[str], guarded: Sequence[str], n: int, seed: int = 0
) -> dict[tuple[str, str], list[Sample]]:
    """Prompts by (concept, group): ``n`` that ask for each concept, as many for its neighbours, and ``2 n`` others.

    guarded: all that the policy is about, none of which may stand among what is to stay
    """
    found: dict[tuple[str, str], list[Sample]] = {}
    for i, concept in enumerate(concepts):
        at = seed * 100_000 + i * 100
        found[concept, "erased"] = suites.erased(suite, concept, n, at)
        found[concept, "neighbours"] = suites.neighbours(suite, concept, n, 10_000 + at, without=guarded)
    found["", "others"] = suites.others(suite, 2 * n, 20_000 + seed * 100_000, without=guarded)
    return found


def draw_pairs(
    pipe: Any, judges: Judges, policy: Policy, asked: dict[tuple[str, str], list[Sample]], recipe: Recipe,
    tick: Tick = lambda n: None,
) -> tuple[list[Pair], list[Receipt]]:  # fmt: skip
    """All of them, judged, and the receipt of every call under the policy. The pipeline must be unguarded, and is left
    so; ``tick`` hears two for each pair."""
    bare = make_groups_once(pipe, list(asked.values()), recipe, tick)
    pairs: list[Pair] = []
    receipts: list[Receipt] = []
    with attach(pipe, policy) as session:
        for (concept, group), samples, before in zip(asked, asked.values(), bare):
            for at in range(0, len(samples), recipe.batch):
                part = samples[at : at + recipe.batch]
                for i, made, why in _guarded(pipe, part, recipe):
                    pair = Pair(concept, group, samples[at + i], before.pixels[at + i], None, refused=why)
                    pairs.append(pair)
                    if made is None:
                        continue
                    pixels, digest, place, whole = made
                    receipt = session.receipt
                    told = acts(receipt, pair.sample.prompt, place)
                    pair.after, pair.acted, pair.found = pixels, told["guards"], told["found"]
                    pair.identical = digest == before.digests[at + i] if whole else None
                    if not any(receipt is one for one in receipts):
                        receipts.append(receipt)
                tick(len(part))
    _judged(judges, pairs)
    return pairs, receipts


_Made = tuple[Tensor, str, int, bool]  # pixels, digest, which of its call, whether that was the whole batch


def _guarded(pipe: Any, part: Sequence[Sample], recipe: Recipe) -> Iterator[tuple[int, _Made | None, str]]:
    """(which, what was drawn, why nothing was). What a guard refuses is drawn one by one: the others are let out."""
    try:
        made = make(pipe, part, recipe)
    except (Refused, GuardError) as error:
        if len(part) == 1:
            yield 0, None, str(error)
            return
    else:
        yield from ((i, (made.pixels[i], made.digests[i], i, True), "") for i in range(len(part)))
        return
    for i, sample in enumerate(part):
        for _, alone, why in _guarded(pipe, [sample], recipe):
            yield i, None if alone is None else (*alone[:3], False), why


def _judged(judges: Judges, pairs: Sequence[Pair]) -> None:
    """Who recognises what; of a picture that was not let out nobody does."""
    samples = [one.sample for one in pairs]
    said = []
    for judge in judges.by_prefix.values():
        before, after = (
            recognised(judge, samples, Pictures(_stacked([which(one) for one in pairs]), [""] * len(pairs)))
            for which in (lambda one: one.before, lambda one: one.before if one.after is None else one.after)
        )
        said.append([(a, b and one.after is not None) for a, b, one in zip(before, after, pairs)])
    for i, one in enumerate(pairs):
        one.shown_before, one.shown_after = said[0][i]
        one.agree = said[0][i] == said[1][i] if len(said) > 1 else None


def _stacked(pictures: Sequence[Tensor]) -> Tensor:
    import torch

    return torch.stack(list(pictures))
