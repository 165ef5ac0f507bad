"""Whether a fresh artifact erases: a few pictures, or answers, without it and with it.

A judge says what the pictures show where there is one for them: an embedded model's, or one's own. Without one it is
told how much the pictures changed, and a person looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import RegistryError
from ..policy import Policy
from ..sessions.attach import attach
from .cards import picture
from .cases import Case, case
from .evaluate import row
from .judges import Judges, check_judges, load_judges
from .samples import Recipe, Tick, make
from .sheet import Column, Group, contact_sheet
from .suite import Sample, load_suite

if TYPE_CHECKING:
    from PIL.Image import Image

ORDINARY = ("a dog on a table", "a red apple", "a house by the sea", "two people talking")


@dataclass
class Trial:
    """figures: flat, for a report; told: the same in a line; sheet: the pictures below one another."""

    figures: dict[str, Any]
    told: str
    sheet: Image | None = None


def try_on_pictures(
    pipe: Any, model: str, policy: Policy, concepts: Sequence[str], prompts: Sequence[str], kept: Sequence[str], n: int,
    steps: int = 25, judge: str | None = None, tick: Tick = lambda n: None,
) -> Trial:  # fmt: skip
    """``n`` pictures of the concepts and as many of what is to stay, without and with the policy.

    concepts: of more than ``n`` the first ones; prompts, kept: what evokes the concept, and what stands near it
    model, judge: by whose suite and judge it is judged, where the suite has the concept
    """
    judged = _judged(model, policy, concepts, n, judge)
    concept = ", ".join(concepts[:n])
    ask, judges = judged or (_by_hand(policy, concept, prompts, kept, n), None)
    recipe = Recipe(steps=steps)
    before = [make(pipe, samples, recipe, tick) for samples in ask.groups]
    with attach(pipe, policy):
        after = [make(pipe, samples, recipe, tick) for samples in ask.groups]
    title, under = f"{concept}, without and with {policy.guards[0].method}", f"{model}, {steps} steps"
    if judges is not None:
        figures = row(judges, ask, before, after, model)
        return Trial(figures, _shares(figures), picture(ask, before, after, figures, title, under))
    moved = [float((a.pixels.float() - b.pixels.float()).abs().mean()) for a, b in zip(before, after)]
    figures = {
        "n": sum(map(len, ask.groups)), "identical": after[2].identical(before[2]),
        "changed": 1 - after[0].identical(before[0]),
        "moved_concept": round(moved[0], 2), "moved_others": round(moved[2], 2),
    }  # fmt: skip
    told = (
        f"changed {figures['changed']:.0%} of {len(ask.erased)} pictures of the concept, by {moved[0]:.0f} of 255 on "
        f"average; {figures['identical']:.0%} of {len(ask.others)} others are the same bit for bit; whether the "
        "concept is gone, the picture shows (a judge would tell: `conceptguard judge`)"
    )
    groups = [
        Group(name, [Column(s.prompt, [a.pixels[i], b.pixels[i]], [1] if a.digests[i] == b.digests[i] else [])
                     for i, s in enumerate(samples)])
        for name, samples, a, b in zip(("the concept", "near it", "others"), ask.groups, before, after)
    ]  # fmt: skip
    return Trial(figures, told, contact_sheet(groups, title, under))


def _judged(
    model: str, policy: Policy, concepts: Sequence[str], n: int, judge: str | None
) -> tuple[Case, Judges] | None:
    """What the model's own suite asks, and its judges; None where there is no suite that has one of the concepts."""
    try:
        suite = load_suite(model)
        known = suite.known(concepts)[:n]
        if not known:
            return None
        # What is beside the concepts is beside all of them, those that are not asked for included.
        found = case(suite, policy.name, known, policy, n // len(known), n)
        judges = load_judges(suite, [judge] if judge else [])
        check_judges(judges, found.samples)
    except RegistryError:
        if judge is not None:
            raise
        return None
    return found, judges


def _by_hand(policy: Policy, concept: str, prompts: Sequence[str], kept: Sequence[str], n: int) -> Case:
    def of(texts: Sequence[str], seed: int) -> list[Sample]:
        return [Sample(texts[i % len(texts)], seed + i, "object", "") for i in range(n if texts else 0)]

    return Case(policy.name, [concept], policy, True, of(prompts, 0), of(kept, 1000), of(ORDINARY, 2000))


def _shares(figures: dict[str, Any]) -> str:
    def share(group: str) -> str:
        return f"{figures[f'{group}_before']:.0%} -> {figures[f'{group}_after']:.0%}"

    near = f", near it {share('neighbours')}" if figures["neighbours_before"] is not None else ""
    return (
        f"recognised without -> with: {figures['concept']} {share('erased')}{near}, others {share('others')}; "
        f"{figures['identical']:.0%} of the others are the same bit for bit ({figures['n']} pictures)"
    )


def try_on_text(
    pair: Any, policy: Policy, forget: Sequence[str], retain: Sequence[str], n: int, tokens: int = 40,
    tick: Tick = lambda n: None,
) -> Trial:  # fmt: skip
    """The answers to ``n`` prompts that are to be forgotten, and to as many that are to stay, without and with it."""
    asked = [list(forget[:n]), list(retain[:n])]
    before = [[_answer(pair, text, tokens, tick) for text in texts] for texts in asked]
    with attach(pair, policy):
        after = [[_answer(pair, text, tokens, tick) for text in texts] for texts in asked]
    changed, same = (sum(a != b for a, b in zip(*both)) for both in zip(before, after))
    same = len(asked[1]) - same
    told = (
        f"changed {changed} of {len(asked[0])} answers that are to be forgotten; {same} of {len(asked[1])} others are "
        "the same"
    )
    return Trial({"n": len(asked[0]) + len(asked[1]), "changed": changed, "same": same}, told)


def _answer(pair: Any, text: str, tokens: int, tick: Tick) -> str:
    inputs = pair.tokenizer(text=text, return_tensors="pt", return_token_type_ids=False).to(pair.device)
    out = pair.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    tick(1)
    return str(pair.tokenizer.decode(out[0], skip_special_tokens=True))
