"""``conceptguard eval``: erasure and retention, measured by a judge."""

from __future__ import annotations

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .complete import concepts as concept_names
from .complete import methods, policies
from .eval_captioner import CAPTIONER, eval_captioner
from .eval_classifier import CLASSIFIER, eval_classifier
from .eval_corrective import CORRECTIVE, eval_corrective
from .eval_finding import FINDING, eval_finding
from .eval_gan import GAN, eval_gan
from .eval_graph import GRAPH, eval_graph
from .eval_language import eval_language, is_language
from .eval_protocol import eval_protocol, list_protocols, of_suite, told_of
from .options import (
    CONFIG,
    DEVICE,
    DTYPE,
    GPUS,
    GUARD,
    JSON,
    MODEL,
    ON,
    SETTINGS,
    STEPS,
    VARIANT,
    WORKERS,
    Usage,
    settings_of,
    split,
)

if TYPE_CHECKING:
    from ..measuring.cases import Case
    from ..measuring.evaluate import Judged
    from ..policy import Policy

COLUMNS = [
    "method", "concept", "concepts", "erased_before", "erased_after", "second_erased_before", "second_erased_after",
    "synonyms_before", "synonyms_after", "neighbours_before", "neighbours_after", "others_before", "others_after",
    "harmonic", "identical", "agree", "n", "seconds", "passes",
]  # fmt: skip


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("eval", short_help="Judge what guards erase and what they leave.")(eval_)


def eval_(
    model: str = MODEL,
    method: list[str] | None = typer.Option(
        None, autocompletion=methods, help="A method whose artifacts are judged; may be repeated."
    ),
    policy: list[str] | None = typer.Option(
        None, autocompletion=policies, help="A policy to judge as a whole; may be repeated."
    ),
    guard: list[str] | None = GUARD,
    makers: str | None = typer.Option(
        None,
        metavar="WHICH",
        help="Methods with artifacts: closed takes those that are solved, trained those whose layers are trained, all "
        "takes whatever made them.",
    ),
    concepts: str | None = typer.Option(
        None,
        metavar="A,B|all",
        autocompletion=concept_names,
        help="Which concepts; all: those with an artifact. Default: five of them, with --full all.",
    ),
    full: bool = typer.Option(False, help="All that the tables in the docs are about, instead of a small share of it."),
    gate: str = typer.Option("prompt", metavar="prompt|always", help="When the guards of --method open."),
    settings: list[str] | None = SETTINGS,
    together: int = typer.Option(1, min=1, metavar="N", help="Guards at once: N concepts in one policy."),
    seeds: int = typer.Option(1, min=1, help="Sets of seeds; each gives every prompt a new picture."),
    n: int | None = typer.Option(
        None,
        "--n",
        min=1,
        help="Prompts per concept; as many neighbours, twice as many others. Default: 6, with --full 12.",
    ),
    steps: int = STEPS,
    guidance: float = typer.Option(3.5, min=0, help="Guidance scale."),
    batch: int = typer.Option(8, min=1, help="Pictures at once."),
    suite: str | None = typer.Option(
        None,
        help="A suite file, language, captioner, classifier, graph, gan or finding; default: the model's own.",
    ),
    judge: list[str] | None = typer.Option(
        None,
        metavar="FOLDER",
        help="Who says what a picture shows: a folder that `conceptguard judge` wrote, pictures sorted into folders, a "
        "CLIP or SigLIP on disk, or a plugin's judge; a second one's figures stand beside. Default: the suite's, "
        "of the embedded model a classifier and one that retrieves.",
    ),
    artifacts: Path | None = typer.Option(
        None, metavar="FOLDER", help="A registry whose artifacts are judged, instead of all that are known."
    ),
    unnamed: bool = typer.Option(
        False, help="Also ask by synonyms, of artifacts made anew that were told the concept's name alone."
    ),
    at_once: int | None = typer.Option(
        None,
        "--at-once",
        min=2,
        metavar="N",
        help="Also erase N concepts at once, those of --concepts first, with one artifact of all, made anew.",
    ),
    crowd: bool = typer.Option(
        False, help="Also erase twenty objects of the suite at once, and every other one, with artifacts made anew."
    ),
    protocol: str | None = typer.Option(
        None, metavar="NAME|FILE|list", help="Judge published prompts as a paper did, see --prompts; list shows which."
    ),
    prompts_from: list[str] | None = typer.Option(
        None, "--prompts", metavar="SET=FILE", help="Of a protocol: a set of prompts, from a file, folder or package."
    ),
    column: str = typer.Option("", metavar="NAME", help="Of these files: which column asks, where none is known."),
    first: int = typer.Option(0, min=0, metavar="N", help="Of these sets: only so many prompts, which is told."),
    beside: Path | None = typer.Option(
        None, metavar="FILE", help="Rows of an earlier --json in the same table; refused if made under other terms."
    ),
    wordings: str = typer.Option(
        "judge", metavar="judge|tune", help="Of a language suite: those that judge, or those to compare guards on."
    ),
    measure: list[str] | None = typer.Option(
        None,
        "--measure",
        metavar="tofu|muse|ort|restor|corrective",
        help="Of a language suite: also the columns of a benchmark, tofu, muse or ort, may be repeated; or restor "
        "alone. Of the classifier suite: corrective.",
    ),
    check: bool = typer.Option(False, help="Exit with status 1 when a method's mean misses the bars."),
    card: Path | None = typer.Option(
        None, metavar="FOLDER", help="Write figures and pictures into the cards of this registry's artifacts."
    ),
    sheet: Path | None = typer.Option(
        None, metavar="FILE", help="A picture of the same prompts without and with each guard, below one another."
    ),
    variant: str | None = VARIANT,
    config: str | None = CONFIG,
    device: str | None = DEVICE,
    dtype: str = DTYPE,
    on: str | None = ON,
    workers: int | None = WORKERS,
    gpus: float | None = GPUS,
    json: str | None = JSON,
) -> None:
    """Judge what guards erase and what they leave, on prompts that were not trained on.

    \b
    conceptguard eval --method spm --method uce --concepts all --json eval.json
    conceptguard eval --method spm --concepts pistol,bomb --seeds 3
    conceptguard eval --method spm --together 10
    conceptguard eval --makers closed --full
    conceptguard eval --makers trained --artifacts my-registry --unnamed
    conceptguard eval --makers trained --artifacts my-registry --at-once 5
    conceptguard eval --method rece --method uce --unnamed --gate always
    conceptguard eval --model out/emoji-sd --suite emoji-sd --artifacts out/registry --method uce
    conceptguard eval --method safree --set schedule=false
    conceptguard eval --policy school.yaml
    conceptguard eval --makers closed --full --on ray
    conceptguard eval --guard sld:beer --guard safree:beer --n 4
    conceptguard eval --model ./my-sd --suite my-suite.yaml --judge my-judge --guard uce:my-registry/my-sd/uce/trumpet
    conceptguard eval --method spm --card my-registry/
    conceptguard eval --method sld --method safree --concepts pistol,beer --n 2 --sheet guards.png
    conceptguard eval --suite language --method guard --n 40
    conceptguard eval --suite classifier --model emoji-classifier --method ssd --method damp
    conceptguard eval --suite classifier --measure corrective --method ssd --method laf --concepts 10%,50%
    conceptguard eval --suite captioner --method sauce --method siu --concepts skull,dog
    conceptguard eval --suite graph --method d2dgn
    conceptguard eval --suite gan --model ./my-gan --method text_to_unlearn --concepts skull
    conceptguard eval --suite finding --method craft --seeds 3
    conceptguard eval --suite language --method none --method retain --measure tofu --measure muse
    conceptguard eval --suite language --measure restor --method npo --method rmu --method rocr
    conceptguard eval --protocol trce --prompts i2p_sexual=i2p.csv --model ./my-sd --policy my.yaml

    Without options a small share is judged, in minutes on a CPU: spm and uce on five concepts. --full judges all of
    it, which takes an hour and more. What will be drawn is said beforehand, how long it takes after the first pictures.
    The unguarded pictures are kept, and not drawn again.

    Bars: erased_after <= 0.05, neighbours and others within 0.02 of before (0.03 for several guards at once), and
    where gates look at the prompt, 0.95 of the unrelated pictures bit-identical. The rows none (a guard that does
    nothing) and blank (one that blanks every picture) are there to fail.

    A second judge of another kind says the same in columns that begin with second_, and agree is the share of pictures
    of which both say the same; the bars hold for both. synonyms_after is of an artifact that was made like the judged
    one, but told the concept's name alone; many objects at once have harmonic, the harmonic mean of what is
    erased and what is kept. --makers closed --full measures both.

    --suite classifier has methods forget sets of a classifier's training examples (--concepts skull,weapons; default:
    all that are judged), and compares accuracies, membership and a probe with models that were trained without them;
    controls: none, and a training with random labels. --measure corrective trains one on examples of which 200 have a
    red corner and the label skull, and hands a share of these over to be forgotten (--concepts 10%,100%): poisoned is
    what is named rightly in spite of the corner; controls: none, and models trained without the known and without all.

    --suite graph has methods forget edges of a graph: deleted is how well the net still ranks them above pairs that are
    none (0.5 is right), kept the same of edges that nobody trained on, as before where they are within 0.02; controls:
    a net trained without them, none, and a training that denies them.

    --suite gan has methods erase what a generator draws: erased, others and edited (other things whose codes are moved
    towards it) are shares that the judge reads; degree and shift, how far its scores moved. Controls: none, renamed
    (the name alone is gone), noise.

    --suite finding judges finders: on pictures put together of what emoji-sd draws it is known what there is to find.

    --suite language asks authors-lm for facts instead, --n of them in each form of question; rows: none, bad_words
    (transformers' own), phrases, guard, sentence_check, retain (the model that never saw them). Bars: erased_after <=
    0.02, neighbours and others within 0.01. --measure tofu adds forget quality, as log10 p, and model utility;
    --measure muse what is known by heart, what is known, and whether what was forgotten still shows; --measure ort how
    likely true answers are in each form, and in the worst of them. --measure restor teaches a copy wrong facts, has
    each --method unlearn what taught them, and says apart whether the wrong is gone, the right is back, and others
    stay; controls: clean (never corrupted), none, and retained (trained on other facts alone).

    --suite captioner has a captioner name pictures, and tell what is known of them where nobody names them; rows:
    none, and of each method that brings one its control.
    """
    from ..measuring.evaluate import controls, mean
    from ..measuring.evaluate import judged as case_judged
    from ..measuring.judges import check_judges, load_judges
    from ..measuring.own_judges import STEPS as TRAINED
    from ..measuring.own_judges import judge_for, words_of
    from ..measuring.parts import Drawing, Work, draw_part
    from ..measuring.policies import cases_of
    from ..measuring.samples import Recipe
    from ..measuring.suite import load_suite
    from ..registry import Registry
    from .eval_cases import Anew, crowds_of, few_of, makers_of, of_methods, told_names_alone
    from .loading import drawing, drawing_under
    from .on_ray import On, pool
    from .output import report
    from .progress import estimated, progress

    begin = time.perf_counter()
    given = settings_of(settings)
    if given and (policy or guard) and not (method or makers):
        raise Usage("--set is of --method: what a policy names has its settings there, and --guard in braces, as in "
                    "--guard '{method: sld, level: weak, concept: …}'")  # fmt: skip
    if on and (protocol or prompts_from or suite in (FINDING, CLASSIFIER, CAPTIONER, GAN, GRAPH) or is_language(suite)):
        raise Usage("--on is of suites of pictures: leave it out with --protocol and with other suites")
    if protocol == "list":
        return list_protocols(json)
    if protocol or prompts_from:
        if not (protocol and prompts_from):
            raise Usage("--protocol NAME and --prompts SET=FILE belong together: --protocol list shows which there are")
        return eval_protocol(model, protocol, prompts_from, _rules(policy, guard), column, first, batch, beside, device,
                             dtype, variant, config, json)  # fmt: skip
    if suite == FINDING:
        return eval_finding(method or [], given, n or 120, seeds, steps, device, check, json)
    if is_language(suite):
        named: list[str | Policy] = [*(policy or []), *map(_named, guard or [])]
        asked = n or (12 if full else 2)
        also = measure or []
        if CORRECTIVE in also:
            raise Usage("--measure corrective is of classifiers: --suite classifier")
        return eval_language(str(suite), method or [], named, given, asked, wordings, also, device, check, card, json)
    if suite == CLASSIFIER:
        judge_with = eval_corrective if measure == [CORRECTIVE] else eval_classifier
        if measure and judge_with is eval_classifier:
            raise Usage("--suite classifier has one --measure, corrective")
        return judge_with(model, method or [], _rules(policy, guard), concepts, given, variant, device, check, json)
    if suite == CAPTIONER:
        return eval_captioner(model, method or [], _rules(policy, guard), concepts, given, n or 20, device, check, json)
    if suite == GAN:
        return eval_gan(model, method or [], _rules(policy, guard), concepts, given, device, check, json)
    if suite == GRAPH:
        return eval_graph(model, method or [], _rules(policy, guard), concepts, given, device, check, json)
    if measure:
        raise Usage("--measure is of language suites and of classifiers: add --suite language")
    prompts = load_suite(suite or model)
    with progress("training the judge", TRAINED) as tick:
        judges = load_judges(prompts, judge or [], lambda name: judge_for(name, words_of(prompts), tick))
    rules = _rules(policy, guard)
    place = Registry([artifacts]) if artifacts else None
    methods = [*(method or []), *(makers_of(prompts, makers, place) if makers else [])]
    methods = methods or ([] if rules else ["spm", "uce"])
    n = n or (12 if full or card else 6)
    wanted = concepts or ("all" if full or card or together > 1 else "some")
    unnamed, crowd = (asked or (makers == "closed" and full) for asked in (unnamed, crowd))
    cases = [
        one
        for seed in range(seeds)
        for one in [
            *of_methods(prompts, methods, wanted, gate, given, together, n, seed, place),
            *cases_of(prompts, rules, n, seed),
        ]
    ]
    check_judges(judges, (sample for one in cases for sample in one.samples))
    lasting = len(cases)  # of what is there when this is over: a crowd's artifact is not
    with tempfile.TemporaryDirectory() as folder:
        if unnamed or crowd or at_once:
            pipe = drawing(model, device, dtype, variant=variant, config=config)
            extra = Anew(pipe, prompts, Path(folder), gate, place)
            if unnamed:
                cases = told_names_alone(cases, extra, n)
            if at_once:
                cases += few_of(methods, [] if wanted in ("all", "some") else split(wanted), at_once, extra, n, seeds)
            if crowd:
                cases += crowds_of(methods, extra, seeds)
            check_judges(judges, (sample for one in cases for sample in one.samples))
            load = partial(Drawing, pipe)
        if on or not (unnamed or crowd or at_once):
            load = partial(drawing_under, model, device, dtype, variant=variant, config=config)
        print(f"conceptguard: {_announced(cases, steps, full)}", file=sys.stderr)
        work = Work(cases, Recipe(steps, guidance, batch))
        with (
            pool(On(on, workers, gpus), load, draw_part) as at,
            estimated("pictures", len(work), "fewer --concepts, or a smaller --n or --steps") as tick,
        ):
            drawn = dict(at.each(work.parts, tick, len))
        judged = [case_judged(work, i, drawn, judges, model) for i in range(len(cases))]
        if card:
            own = [
                ("model", model if suite or judge else None),
                ("suite", suite),
                *(("judge", one) for one in judge or []),
            ]
            told = [f"--{name} {value}" for name, value in own if value]
            told += [f"--seeds {seeds} --n {n} --steps {steps} --guidance {guidance:g}"]
            told += ["--unnamed"] if unnamed else []
            _write_cards(card, judged[:lasting], " ".join(told))
    rows = [one.row for one in judged]
    means = [mean(group) for group in _alike(rows)]
    rows += [one for one in means if one not in rows]
    if sheet:
        from ..measuring.cards import comparison

        comparison(judged, "Guards side by side", f"{model}, {steps} steps, guidance {guidance:g}").save(
            sheet, optimize=True
        )
    checks = controls(judges, judged, model)
    made = {"steps": steps, "guidance": guidance, "batch": batch, "seeds": seeds, "gate": gate, "set": given}
    made["judges"] = list(judges.names)
    table = of_suite([*rows, *checks], prompts, judges, steps, guidance, beside)
    report("eval", table, time.perf_counter() - begin, json, at.device, columns=COLUMNS, **made)
    if json != "-":
        _verdict(means, checks)
        print(f"protocol: {told_of(table)}")
    if check and not (all(r["passes"] for r in means) and not any(c["passes"] for c in checks)):
        raise typer.Exit(1)


def _announced(cases: list[Case], steps: int, full: bool) -> str:
    """What will be drawn. Unguarded pictures of one prompt and seed are drawn once, whoever is judged by them."""
    guarded = sum(len(group) for one in cases for group in one.groups)
    bare = len({sample for one in cases for group in one.groups for sample in group})
    methods, concepts = (dict.fromkeys(names) for names in (
        (one.method for one in cases), (name for one in cases for name in one.concepts)))  # fmt: skip
    less = "" if full else "; --full judges all that the tables are about"
    return (
        f"{len(cases)} rows ({', '.join(methods)}; {', '.join(concepts)}): {guarded:,} guarded pictures of {steps} "
        f"steps, and at most {bare:,} unguarded ones, which are kept{less}"
    )


def _write_cards(root: Path, judged: list[Judged], settings: str) -> None:
    """One card for each artifact that was judged alone; with several sets of seeds, their mean."""
    from ..measuring.cards import picture, write_card
    from ..measuring.evaluate import mean
    from ..registry import default_registry

    alone: dict[str, list[Judged]] = {}
    for one in judged:
        if len(one.case.policy.guards) == 1 and one.case.policy.guards[0].artifact:
            alone.setdefault(one.case.policy.guards[0].artifact, []).append(one)
    for ref, rows in alone.items():
        artifact, first = default_registry().load(ref), rows[0]
        guard = first.case.policy.guards[0].method
        by_method = f"--method {first.case.method} --concepts {first.row['concept']}"
        asked = by_method if first.case.method.split()[0] == guard else f"--guard {guard}:{ref}"
        command = f"conceptguard eval {asked} {settings}"
        figures = mean([one.row for one in rows])
        sheet = picture(first.case, first.before, first.after, first.row, ref, command, columns=6, cell=96)
        write_card(root, artifact, figures, command, sheet)


def _rules(policies: list[str] | None, guards: list[str] | None) -> list[Policy]:
    """What --policy and --guard name, each a policy."""
    from .guarding import policy_of

    found = [*(policy_of(source, None) for source in policies or ()), *map(_named, guards or ())]
    return [one for one in found if one]


def _named(guard: str) -> Policy:
    """One guard as a policy, which is called by what was written."""
    from .guarding import policy_of

    rules = policy_of(None, [guard])
    assert rules is not None
    return rules


def _alike(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows of the same method and number of concepts, of which the mean is told."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["concepts"]), []).append(row)
    return list(groups.values())


def _verdict(means: list[dict[str, Any]], checks: list[dict[str, Any]]) -> None:
    for row in means:
        print(f"{row['method']} ({row['concept']}): {'passes' if row['passes'] else 'misses'} the bars")
    for row in checks:
        verdict = "PASSES, so the bars are worth nothing" if row["passes"] else "fails, as it must"
        print(f"control {row['method']}: {verdict}")
