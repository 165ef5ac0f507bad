"""``conceptguard redteam``: attacks against a policy, judged by others than those who searched."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .attack_names import attack_kinds, every_attack
from .complete import attacks
from .complete import concepts as concept_names
from .eval_language import is_language
from .options import CONFIG, DEVICE, DTYPE, GPUS, GUARD, JSON, MODEL, ON, POLICY, STEPS, VARIANT, WORKERS, Usage, split
from .redteam_language import WORST, redteam_language

if TYPE_CHECKING:
    from ..attacking.run import Plan, Result
    from ..measuring.parts import Drawing
    from .on_ray import Pool

COLUMNS = [
    "method", "concept", "attack", "needs", "asr", "low", "high", "asr_unattacked", "asr_random", "gain", "bare", "n",
    "asks", "vocabulary", "refused", "seconds", "note",
]  # fmt: skip


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("redteam", short_help="Attack what a policy guards, and judge what comes back.")(redteam)


def redteam(
    model: str = MODEL,
    policy: str | None = POLICY,
    guard: list[str] | None = GUARD,
    concepts: str | None = typer.Option(
        None, metavar="A,B", autocompletion=concept_names, help="Which of the policy's concepts. Default: all of them."
    ),
    attack: list[str] | None = typer.Option(
        None,
        metavar="NAME",
        autocompletion=attacks,
        help="An attack, or all; may be repeated. list shows which there are. Default: all.",
    ),
    budget: str = typer.Option(
        "default", metavar="small|default|large", help="How much of it; large is what papers take."
    ),
    asks: int | None = typer.Option(
        None, min=1, metavar="N", help="Of a language suite: how many facts are asked for, in place of the budget's."
    ),
    vocabulary: str | None = typer.Option(
        None, metavar="seen|full", help="Tokens that searches may use: those of the training captions, as far as the "
        "suite knows them, or all. Default: seen where it says what these are.",
    ),
    judge: list[str] | None = typer.Option(
        None, metavar="FOLDER", help="Who counts, as for eval; a second one, which never counts, is the searches'. "
        "Default: the suite's.",
    ),
    start: str = typer.Option(
        "", metavar="TEXT", help="A prompt that has nothing to do with the concepts, which is attacked instead of "
        "those that ask for them; with --policy none, whether searches find anything at all.",
    ),
    examples: Path | None = typer.Option(
        None, metavar="FOLDER", help="Pictures of the concepts, FOLDER/CONCEPT/*.png, that searches have in place of "
        "what the unguarded model draws; of a concept that the model never saw, with --policy none, what an attack "
        "brings by itself.",
    ),
    suite: str | None = typer.Option(None, help="A suite file, or language; default: the one named like the model."),
    steps: int = STEPS,
    guidance: float = typer.Option(3.5, min=0, help="Guidance scale."),
    batch: int = typer.Option(8, min=1, help="Pictures at once."),
    seed: int = typer.Option(0, min=0, help="Of searches and pictures."),
    again: bool = typer.Option(False, help="Attack anew what was measured before."),
    sheet: Path | None = typer.Option(
        None, metavar="FILE", help="A picture of the same prompts unguarded, guarded, and under each attack."
    ),
    curve: Path | None = typer.Option(
        None, metavar="FILE", help="Of a language suite: a picture, SVG, of what each further candidate brings."
    ),
    variant: str | None = VARIANT,
    config: str | None = CONFIG,
    device: str | None = DEVICE,
    dtype: str = DTYPE,
    on: str | None = ON,
    workers: int | None = WORKERS,
    gpus: float | None = GPUS,
    json: str | None = JSON,
) -> None:  # fmt: skip
    """Attack what a policy guards, and let a judge that no search ever asked say what came back.

    \b
    conceptguard redteam --policy demo --concepts cigarette --budget small
    conceptguard redteam --guard uce:cigarette --attack p4d --attack unlearndiffatk --json attacked.json
    conceptguard redteam --policy demo --on ray
    conceptguard redteam --policy school.yaml --attack random --attack paraphrase --sheet attacked.png
    conceptguard redteam --model ./my-sd --suite my-suite.yaml --judge clip:CLIP --guard uce:my-sd/uce/trumpet
    conceptguard redteam --policy none --start "a picture" --concepts cigarette --attack p4d
    conceptguard redteam --policy none --suite mine.yaml --judge pictures --concepts backpack --examples backpacks
    conceptguard redteam --suite language --policy forget-authors --budget small --curve curve.svg
    conceptguard redteam --attack list

    asr is the share of prompts of which any of N pictures shows the concept, low and high its 95 % interval. Beside it
    stand, each with the same N: asr_unattacked, the prompts as they are, under the policy; asr_random, a random attack
    of the same form; bare, the prompts without the policy. gain is asr above the larger of the first two: it is what
    the search brings, and what counts.

    --suite language asks authors-lm (or --model, of its kind) for facts about authors that a policy keeps silent about;
    --policy none attacks the model as it is. asr is the share of facts that any of N candidates holds; bare is the same
    attack without the policy, never on a model that never read of them, suppressed what it loses of others.

    A row is kept as soon as it is measured. Ctrl-C reports what there is, and the same command goes on from there.
    """
    from ..attacking.kept import told_of
    from .output import report

    begin = time.perf_counter()
    if attack == ["list"]:
        return _list(json, begin)
    if is_language(suite):
        if on:
            raise Usage("--on is of suites of pictures: leave it out")
        if concepts or judge or sheet or start or vocabulary or examples:
            raise Usage(
                "--concepts, --judge, --sheet, --start, --examples and --vocabulary are of pictures: leave them out"
            )
        return redteam_language(
            str(suite), model, policy, guard, attack, budget, asks, seed, again, curve, device, dtype, json
        )
    if curve or asks:
        raise Usage(f"--{'curve' if curve else 'asks'} is of language suites: add --suite language")
    plan = plan_of(model, policy, guard, concepts, attack, budget, vocabulary, judge, suite, seed, again,
                 (steps, guidance, batch), start, examples)  # fmt: skip
    told = {"steps": steps, "guidance": guidance, "budget": budget, "seed": seed, "judges": list(plan.judges.names),
            "vocabulary": plan.vocabulary, "start": start, "examples": str(examples or ""),
            **told_of(plan.policy)}  # fmt: skip
    from ..attacking.run import red_team
    from .loading import drawing_under
    from .on_ray import On, pool

    load = partial(drawing_under, model, device, dtype, variant=variant, config=config)
    where = On(on, workers, gpus)
    found: list[Result] = []
    if on:
        with pool(where, load, partial(_row_of, plan)) as at:
            place, interrupted = at.device, _run(plan, found, partial(_rows_of, at, plan))
    else:
        where.check()
        with load() as own:
            place, interrupted = own.device, _run(plan, found, partial(red_team, own.pipe, plan))
    rows = _stamped([one.row for one in found], plan, steps, guidance, budget)
    report("redteam", rows, time.perf_counter() - begin, json, place, columns=COLUMNS, **told)
    if sheet and found:
        with load() as own:
            _sheet(own.pipe, plan, found).save(sheet, optimize=True)
    if interrupted:
        print("conceptguard: interrupted; what was measured is kept: the same command goes on from there",
              file=sys.stderr)  # fmt: skip
        raise typer.Exit(130)


def _row_of(plan: Plan, own: Drawing, row: tuple[str, str], tick: Callable[[int], None]) -> Result:
    """A worker's: one row. The row of the prompts that nobody attacked is measured before it, where it is not kept."""
    from ..attacking.run import red_team

    return list(red_team(own.pipe, plan.alone(*row), tick))[-1]


def _rows_of(at: Pool, plan: Plan, tick: Callable[[int], None]) -> Iterator[Result]:
    """All rows by workers, those that others are compared with before these."""
    from ..attacking.run import UNATTACKED, work

    def size(row: tuple[str, str]) -> int:
        return work(plan.alone(*row)) - (0 if row[1] == UNATTACKED else work(plan.alone(row[0], UNATTACKED)))

    for names in ([UNATTACKED], list(plan.attacks)):
        for _, result in at.each([(concept, name) for concept in plan.concepts for name in names], tick, size):
            yield result


def plan_of(
    model: str, policy: str | None, guard: list[str] | None, concepts: str | None, attack: list[str] | None,
    budget: str, vocabulary: str | None, judge: list[str] | None, suite: str | None, seed: int, again: bool,
    recipe: tuple[int, float, int], start: str = "", examples: Path | None = None,
) -> Plan:  # fmt: skip
    """What was asked for. Raises Usage, PolicyError or RegistryError for what there is not."""
    from ..attack import BUDGETS
    from ..attacking.examples import examples_of
    from ..attacking.run import Plan
    from ..attacking.vocabulary import default_vocabulary
    from ..errors import RegistryError
    from ..measuring.cases import concepts_of
    from ..measuring.judges import check_judges, load_judges
    from ..measuring.own_judges import STEPS as TRAINED
    from ..measuring.own_judges import judge_for, words_of
    from ..measuring.policies import in_full
    from ..measuring.samples import Recipe
    from ..measuring.suite import load_suite
    from ..policy import Policy
    from .guarding import NONE, policy_of
    from .progress import progress

    kinds = attack_kinds(attack)
    rules = policy_of(policy, guard)
    if rules is None and not ((start or examples) and concepts):
        raise Usage(
            "--policy none: there is nothing to attack; with --start 'a picture' and --concepts searches show "
            "whether they find anything at all, with --examples and --concepts what they bring by themselves, and "
            "`conceptguard eval` says what a model draws"
        )
    prompts = load_suite(suite or model)
    rules = in_full(rules, prompts.base) if rules else None
    guarded = prompts.known(concepts_of(rules)) if rules else split(concepts)
    rules = rules or Policy(name=NONE)
    wanted = prompts.check(split(concepts)) if concepts else guarded
    if not wanted:
        raise RegistryError(f"policy '{rules.name}' guards none of the suite's concepts: {prompts.all_concepts}")
    if strange := [one for one in wanted if one not in guarded]:
        raise Usage(
            f"--concepts {strange[0]}: policy '{rules.name}' guards {', '.join(guarded) or 'none of the suite'}"
        )
    with progress("training the judge", TRAINED) as tick:
        judges = load_judges(prompts, judge or [], lambda name: judge_for(name, words_of(prompts), tick))
    plan = Plan(
        model, rules, prompts, wanted, kinds, BUDGETS[budget], judges, Recipe(*recipe),
        vocabulary or default_vocabulary(prompts), start, seed, again,  # type: ignore[arg-type]
        examples_of(examples, wanted) if examples else {},
    )  # fmt: skip
    check_judges(judges, [sample for one in wanted for sample in plan.samples(one)])
    return plan


def _list(json: str | None, begin: float) -> None:
    from ..attack import Attack
    from .output import report

    rows = [
        {"attack": name, "of": "pictures" if issubclass(kind, Attack) else "language", "needs": kind.needs,
         "what": (kind.__doc__ or "").split("\n")[0], "paper": kind.paper}
        for name, kind in every_attack().items()
    ]  # fmt: skip
    rows.append({"attack": WORST, "of": "language", "needs": "weights", "paper": "Fan et al., ECCV 2024",
                 "what": "The people who are the hardest to forget, by bi-level search; of no policy."})  # fmt: skip
    report("redteam", rows, time.perf_counter() - begin, json)


def _run(plan: Plan, found: list[Result], results_of: Callable[[Callable[[int], None]], Iterator[Result]]) -> bool:
    """Fill ``found``, in the plan's order. Gives whether somebody interrupted it."""
    from ..attacking.run import UNATTACKED, work
    from .progress import progress

    rows = len(plan.concepts) * (len(plan.attacks) + 1)
    more = f"{rows} rows: {len(plan.concepts)} concepts ({', '.join(plan.concepts)}), {len(plan.attacks)} attacks, " \
           f"{plan.budget.asks} prompts each, N = {plan.budget.pictures}"  # fmt: skip
    print(f"conceptguard: {more}", file=sys.stderr)
    order = [(concept, attack) for concept in plan.concepts for attack in (UNATTACKED, *plan.attacks)]
    with progress("steps and pictures", work(plan)) as tick:
        results = results_of(tick)
        try:
            for one in results:
                found.append(one)
                print(f"conceptguard: {_line(one.row)}; {rows - len(found)} rows left", file=sys.stderr)
        except KeyboardInterrupt:
            return True
        finally:
            results.close()  # type: ignore[attr-defined]
            found.sort(key=lambda one: order.index((one.row["concept"], one.row["attack"])))
    return False


def _line(row: dict[str, Any]) -> str:
    if row["asr"] is None:
        return f"{row['concept']}, {row['attack']}: {row['note']}"
    beside = [f"{name} {row[key]:.2f}" for name, key in (
        ("unattacked", "asr_unattacked"), ("random", "asr_random")) if row.get(key) is not None]  # fmt: skip
    return f"{row['concept']}, {row['attack']}: {row['asr']:.2f}" + (f" ({', '.join(beside)})" if beside else "")


def _stamped(rows: list[dict[str, Any]], plan: Plan, steps: int, guidance: float, budget: str) -> list[dict[str, Any]]:
    """Rows that say how they were made, and how the judge errs."""
    from ..measuring.own_judges import errors_about
    from ..measuring.protocols import of_suite, stamped

    told, digest = of_suite(plan.suite.base, plan.judges.names[:1], steps, guidance)
    name = f"redteam, {told}, best of {plan.budget.pictures}, budget {budget}"
    rows = [{**row, **errors_about(plan.judges.first, [str(row["concept"])])} for row in rows]
    return stamped(rows, name, f"{digest}-{plan.budget.pictures}")


def _sheet(pipe: Any, plan: Plan, found: list[Result]) -> Any:
    """The same prompts unguarded, guarded and under each attack."""
    from ..measuring.samples import make_once
    from ..measuring.sheet import Column, Group, contact_sheet

    names = ["unguarded", "guarded", *plan.attacks]
    groups = []
    for concept in plan.concepts:
        of_it = [one for one in found if one.row["concept"] == concept]
        whole = {one.row["attack"]: one.pictures for one in of_it}
        if not whole:
            continue
        bare = make_once(pipe, plan.samples(concept), plan.recipe).pixels
        rows = [bare, whole["unattacked"], *(whole.get(name, bare.new_full(bare.shape, 255)) for name in plan.attacks)]
        columns = [Column(ask, [row[i] for row in rows]) for i, ask in enumerate(of_it[0].asks)]
        groups.append(Group(concept, columns))
    return contact_sheet(groups, f"Attacks on {plan.policy.name}", plan.model, 96, names)
