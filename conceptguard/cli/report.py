"""``conceptguard report``: one page from which a person decides whether a policy is good enough."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .complete import attacks as attack_names
from .complete import concepts as concept_names
from .options import CONFIG, DEVICE, DTYPE, GUARD, JSON, MODEL, POLICY, STEPS, VARIANT, Usage

if TYPE_CHECKING:
    from ..attacking.run import Plan

MOST = 3  # concepts that are drawn where nobody says which
QUICK = ("paraphrase", "random", "concept_arithmetics")  # they ask prompts alone, and take seconds
TIMED = 3  # rounds
COLUMNS = [
    "method", "concept", "erased_before", "erased_after", "neighbours_before", "neighbours_after", "others_before",
    "others_after", "identical", "attack", "asr", "low", "high", "gain",
]  # fmt: skip


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("report", short_help="A page about a policy: what it erases, keeps, costs and withstands.")(report)


def report(
    model: str = MODEL,
    policy: str | None = POLICY,
    guard: list[str] | None = GUARD,
    concepts: str | None = typer.Option(
        None, metavar="A,B|all", autocompletion=concept_names,
        help=f"Which of the policy's concepts. Default: the first {MOST}.",
    ),
    n: int = typer.Option(
        4, "--n", min=1, help="Prompts for each concept; as many near it, twice as many that have to do with none."
    ),
    attack: list[str] | None = typer.Option(
        None, metavar="NAME", autocompletion=attack_names,
        help="An attack, all, or none; may be repeated. Default: three quick ones that ask prompts alone.",
    ),
    budget: str = typer.Option("small", metavar="small|default|large", help="Of attacks, as for redteam."),
    redteam: Path | None = typer.Option(
        None, metavar="FILE", help="What `conceptguard redteam --json FILE` found, instead of attacks run now."
    ),
    evaluated: Path | None = typer.Option(
        None, "--eval", metavar="FILE", help="Figures of `conceptguard eval --json FILE`, instead of this page's few "
        "pictures.",
    ),
    judge: list[str] | None = typer.Option(None, metavar="FOLDER", help="Who counts, as for eval and redteam."),
    suite: str | None = typer.Option(None, help="A suite file; default: the one named like the model."),
    steps: int = STEPS,
    guidance: float = typer.Option(3.5, min=0, help="Guidance scale."),
    batch: int = typer.Option(8, min=1, help="Pictures at once."),
    seed: int = typer.Option(0, min=0, help="Of pictures and searches."),
    out: Path = typer.Option(Path("report.html"), metavar="FILE", help="The page."),
    variant: str | None = VARIANT,
    config: str | None = CONFIG,
    device: str | None = DEVICE,
    dtype: str = DTYPE,
    json: str | None = JSON,
) -> None:  # fmt: skip
    """Draw, attack and time a policy, and write a page from which a person decides.

    \b
    conceptguard report --policy demo
    conceptguard report --policy school.yaml --concepts pistol,bomb --n 8 --attack all --out school.html
    conceptguard report --policy demo --redteam attacked.json --eval judged.json
    conceptguard report --model ./my-sd --suite my-suite.yaml --judge pictures/ --guard uce:REFERENCE

    The page has pictures without and with the policy, what a judge recognises in them, what attacks bring back, each
    with a 95 % interval, what a picture costs, receipts, what nobody tested, and what no figure settles. It is one
    file, opens without a network, and can be sent as it is. What will be drawn is said beforehand.

    Few pictures and quick attacks are the default, in minutes on two cores. For a decision that matters, give it the
    reports of `conceptguard eval` and `conceptguard redteam --attack all`.
    """
    from ..attacking.run import red_team
    from ..measuring.judges import check_judges
    from ..measuring.report.card import Card
    from ..measuring.report.cost import cost
    from ..measuring.report.figures import rows_of, rows_of_eval
    from ..measuring.report.open_problems import open_problems, untested
    from ..measuring.report.page import write_card
    from ..measuring.report.pairs import asked_for, draw_pairs
    from .attack_names import attack_kinds
    from .loading import drawing
    from .output import report as reported
    from .progress import estimated
    from .report_sources import attacks_of, figures_of

    begin = time.perf_counter()
    if redteam and attack:
        raise Usage("--redteam and --attack: leave one of them out")
    plan, guarded = _plan(model, policy, guard, concepts, attack, budget, bool(redteam), judge, suite, seed,
                          (steps, guidance, batch))  # fmt: skip
    rules, chosen = plan.policy, plan.concepts
    attacks: list[dict[str, Any]] = attacks_of(redteam, plan) if redteam else []
    figures = figures_of(evaluated, plan) if evaluated else None
    asked = asked_for(plan.suite, chosen, guarded, n, seed)
    samples = [sample for some in asked.values() for sample in some]
    check_judges(plan.judges, [*samples, *(one for concept in chosen for one in plan.samples(concept))])
    both = {f"{chosen[0]}, asked for": asked[chosen[0], "erased"], "something else": asked["", "others"]}
    timed = {what: some[0] for what, some in both.items() if some}
    print(f"conceptguard: {_announced(plan, len(samples), redteam)}", file=sys.stderr)
    pipe = drawing(model, device, dtype, variant=variant, config=config)
    strips: dict[tuple[str, str], Any] = {}
    with estimated("steps and pictures", _work(plan, len(samples)), "fewer --concepts, or a smaller --n") as tick:
        pairs, receipts = draw_pairs(pipe, plan.judges, rules, asked, plan.recipe, tick)
        costs = cost(pipe, rules, timed, plan.recipe, TIMED, tick)
        for one in red_team(pipe, plan, tick) if plan.attacks else ():
            attacks.append(one.row)
            strips[one.row["concept"], one.row["attack"]] = one.pictures
    rows = rows_of(pairs, chosen, attacks, rules.name, model) if figures is None else rows_of_eval(figures, attacks)
    facts = _facts(plan, pipe, dtype, n, redteam, evaluated)
    name = rules.name if policy else ", ".join(guard or [])
    card = Card(
        name, model, rules, facts, rows, pairs, attacks, strips, costs, receipts,
        untested(rules, guarded, chosen, attacks, {name: kind.needs for name, kind in attack_kinds(None).items()}),
        open_problems(rules, rows, attacks, plan.judges.names),
    )  # fmt: skip
    write_card(out, card)
    reported("report", rows, time.perf_counter() - begin, json, str(pipe.device), columns=COLUMNS, html=str(out),
             **card.told())  # fmt: skip
    if json != "-":
        print(f"{out} shows it, and can be sent as it is")


def _plan(
    model: str, policy: str | None, guard: list[str] | None, concepts: str | None, attack: list[str] | None,
    budget: str, taken: bool, judge: list[str] | None, suite: str | None, seed: int, recipe: tuple[int, float, int],
) -> tuple[Plan, list[str]]:  # fmt: skip
    """What is drawn and attacked, and all concepts that the policy guards. Raises Usage, PolicyError, RegistryError."""
    from ..measuring.cases import concepts_of
    from .guarding import NONE
    from .redteam import plan_of

    if policy == NONE:
        raise Usage("--policy none: a report card is about a policy")
    if attack and "none" in attack and len(attack) > 1:
        raise Usage("--attack none says that there is to be none: leave it, or the others, out")
    quiet = taken or attack == ["none"]
    named = None if concepts == "all" else concepts
    plan = plan_of(model, policy, guard, named, ["random"] if quiet else attack or list(QUICK), budget, None, judge,
                   suite, seed, False, recipe)  # fmt: skip
    if quiet:
        plan.attacks = {}
    if not concepts:
        plan.concepts = plan.concepts[:MOST]
    return plan, plan.suite.known(concepts_of(plan.policy))


def _work(plan: Plan, samples: int) -> int:
    from ..attacking.run import work

    return 2 * samples + 4 * TIMED + (work(plan) if plan.attacks else 0)


def _announced(plan: Plan, samples: int, redteam: Path | None) -> str:
    if redteam:
        attacks = f"attacks are those of {redteam}"
    elif plan.attacks:
        attacks = f"{len(plan.attacks)} attacks ({', '.join(plan.attacks)}) on {plan.budget.asks} prompts each, " \
                  f"N = {plan.budget.pictures}"  # fmt: skip
    else:
        attacks = "no attack"
    return (
        f"{', '.join(plan.concepts)}: {samples} prompts without and with the policy, {plan.recipe.steps} steps each; "
        f"{4 * TIMED + 4} pictures to time; {attacks}"
    )


def _facts(plan: Plan, pipe: Any, dtype: str, n: int, redteam: Path | None, evaluated: Path | None) -> dict[str, str]:
    """How it was made, in words."""
    from datetime import datetime, timezone

    from ..measuring.own_judges import errors_about

    errors = errors_about(plan.judges.first, plan.concepts)
    stated = f" (misses {errors['judge_missed']:.0%}, sees falsely {errors['judge_false']:.0%})" if errors else ""
    recipe, ran = plan.recipe, f"{len(plan.attacks)} of them, budget of {plan.budget.asks} prompts, run for this page"
    return {
        "Model": plan.model, "Guards": ", ".join(guard.label for guard in plan.policy.guards),
        "On violation": plan.policy.on_violation, "Judges": ", ".join(plan.judges.names) + stated,
        "Pictures": f"{n} prompts a concept, {recipe.steps} steps, guidance {recipe.guidance:g}, "
                    f"batches of {recipe.batch}, seed {plan.seed}",
        "Figures": f"taken from {evaluated}; that this policy was the same one nobody checked" if evaluated
        else "counted in the pictures of this page",
        "Attacks": f"taken from {redteam}" if redteam else ran if plan.attacks else "none",
        "Ran on": f"{type(pipe).__name__}, {pipe.device}, {dtype}",
        "Date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }  # fmt: skip
