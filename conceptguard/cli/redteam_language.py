"""``conceptguard redteam --suite language``: what a guarded language model can be made to tell."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .eval_language import DEFAULT, LANGUAGE
from .options import Usage

if TYPE_CHECKING:
    from ..attacking.language.sides import TextPlan

WORST = "worst_case"  # no attack on facts, but a search for people
COLUMNS = [
    "method", "attack", "needs", "asr", "low", "high", "asr_unattacked", "asr_random", "gain", "bare", "never",
    "suppressed", "others", "n", "asks", "refused", "seconds", "note",
]  # fmt: skip


def redteam_language(
    suite: str, model: str, policy: str | None, guard: list[str] | None, attack: list[str] | None, budget: str,
    asks: int | None, seed: int, again: bool, curve: Path | None, device: str | None, dtype: str, json: str | None,
) -> None:  # fmt: skip
    """Attack every way, print the table, draw the curve; Ctrl-C reports what there is."""
    from ..attacking.kept import told_of
    from ..attacking.language.intent import intent
    from .guarding import NONE
    from .output import report

    begin = time.perf_counter()
    rest = [one for one in attack or ["all"] if one != WORST]
    if WORST in (attack or []) and (guard or policy != NONE):
        raise Usage(f"--attack {WORST} is about a way of unlearning weights, and no policy: add --policy none")
    plan = plan_of(suite, model, policy, guard, rest, budget, asks, seed, again, device, dtype)
    found: list[dict[str, Any]] = []
    interrupted = _run(plan, found)
    kept = intent(found, plan.policy is not None, plan.before is not None)
    found = [{**row, **kept} for row in found]
    if WORST in (attack or []) and not interrupted:
        found += _hardest(plan)
    told = {"suite": suite, "budget": budget, "seed": seed, **(told_of(plan.policy) if plan.policy else {})}
    report("redteam", found, time.perf_counter() - begin, json, str(plan.pair.device), columns=COLUMNS, **told)
    if json != "-":
        _by_label(found)
        print(f"{kept['intent'] or 'removal or suppression'}: {kept['intent_by']}")
    if curve and found:
        from ..attacking.language.curve import draw

        curve.write_text(draw(found), encoding="utf-8")
    if interrupted:
        print("conceptguard: interrupted; what was measured is kept: the same command goes on from there",
              file=sys.stderr)  # fmt: skip
        raise typer.Exit(130)


def _hardest(plan: TextPlan) -> list[dict[str, Any]]:
    """Rows of the search for the people who are the hardest to forget; see ``attacking.language.worst_case``."""
    from ..attacking.language.worst_case import Bilevel, work, worst_case
    from .progress import progress

    with progress("unlearning", work(plan.suite, Bilevel())) as tick:
        return list(worst_case(plan.pair, plan.suite, Bilevel(), plan.seed, tick, plan.again))


def plan_of(
    suite: str, model: str, policy: str | None, guard: list[str] | None, attack: list[str] | None, budget: str,
    asks: int | None, seed: int, again: bool, device: str | None, dtype: str,
) -> TextPlan:  # fmt: skip
    """What was asked for. Raises Usage, PolicyError or RegistryError for what there is not."""
    from ..attacking.language.sides import TextPlan
    from ..measuring.language.suite import load_language_suite
    from ..text_attack import TEXT_BUDGETS, TextAttack
    from .attack_names import attack_kinds
    from .guarding import policy_of
    from .loading import speaking
    from .options import MODEL

    kinds = attack_kinds(attack, TextAttack) if attack else {}
    prompts = load_language_suite(DEFAULT if suite == LANGUAGE else suite)
    rules = policy_of(policy, guard)
    own = prompts.forms.base if model == MODEL.default else model
    pair, never = (speaking(name, device, dtype) for name in (own, prompts.forms.retain))
    before = speaking(prompts.forms.base, device, dtype) if own != prompts.forms.base else None
    given = TEXT_BUDGETS[budget]
    given = replace(given, asks=asks) if asks else given
    return TextPlan(pair, never, rules, prompts, kinds, given, seed, again=again, before=before)


def _run(plan: TextPlan, found: list[dict[str, Any]]) -> bool:
    """Fill ``found``. Gives whether somebody interrupted it."""
    from ..attacking.language.run import red_team, work
    from .progress import progress

    b = plan.budget
    print(f"conceptguard: {len(plan.attacks)} attacks, {b.asks} facts, N = {b.answers}", file=sys.stderr)
    with progress("prompts", work(plan)) as tick:
        rows: Iterator[dict[str, Any]] = red_team(plan, tick)
        try:
            for row in rows:
                found.append(row)
                print(f"conceptguard: {_line(row)}", file=sys.stderr)
        except KeyboardInterrupt:
            return True
    return False


def _line(row: dict[str, Any]) -> str:
    if row["asr"] is None:
        return f"{row['attack']}: {row.get('note', 'nothing to ask')}"
    beside = {"unattacked": "asr_unattacked", "random": "asr_random", "no policy": "bare", "never knew": "never"}
    told = ", ".join(f"{name} {row[key]:.2f}" for name, key in beside.items() if row.get(key) is not None)
    return f"{row['attack']}: {row['asr']:.2f} ({told})"


def _by_label(rows: list[dict[str, Any]]) -> None:
    """What was tried, one by one."""
    from .output import print_table

    for row in rows:
        if row.get("by"):
            print()
            print_table([{f"{row['attack']}, by": "asr", **row["by"]}])
