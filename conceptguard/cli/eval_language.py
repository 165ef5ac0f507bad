"""``conceptguard eval --suite language``: what guards of language models keep silent, and what they leave."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from .options import Usage

if TYPE_CHECKING:
    from ..measuring.language.evaluate import Contestant
    from ..measuring.language.suite import LanguageSuite
    from ..policy import Policy

LANGUAGE = "language"
DEFAULT = "authors-lm"
COLUMNS = [
    "method", "erased_before", "erased_after", "neighbours_before", "neighbours_after", "others_before",
    "others_after", "identical", "identical_retain", "read_forget", "rouge_erased", "rouge_kept", "perplexity", "n",
    "seconds", "passes",
]  # fmt: skip


def is_language(suite: str | None) -> bool:
    """Whether ``--suite`` names a language suite: ``language``, or a folder with forms.yaml."""
    return suite is not None and (suite == LANGUAGE or (Path(suite) / "forms.yaml").is_file())


def eval_language(
    suite: str, methods: Sequence[str], policies: Sequence[str | Policy], settings: dict[str, Any], n: int,
    wordings: str, also: Sequence[str], device: str | None, check: bool, card: Path | None, json: str | None,
) -> None:  # fmt: skip
    """Judge every row, print the table, exit with 1 where ``check`` asks for it and a guard misses the bars."""
    from ..hosts.load import load_model
    from ..measuring.language.evaluate import Contestant, answer, groups, judge
    from ..measuring.language.suite import Wordings, load_language_suite
    from ..policy_file import load_policy
    from .devices import pick_device
    from .eval_restor import RESTOR, eval_restor
    from .output import report
    from .progress import estimated

    begin = time.perf_counter()
    prompts = load_language_suite(DEFAULT if suite == LANGUAGE else suite)
    if RESTOR in also:
        if len(also) > 1 or card:
            raise Usage("--measure restor is of a model of its own: leave out --card and other measures")
        return eval_restor(prompts, methods, [load_policy(one) for one in policies], settings, device, check, json)
    rows = contestants(prompts, methods, policies, settings)
    where = pick_device(device)
    pair, retain = (load_model(name).to(where) for name in (prompts.forms.base, prompts.forms.retain))
    asked = groups(prompts, n, cast(Wordings, wordings))
    found = []
    widths = {one.beams for one in rows}  # what a beam says is compared with what it says unguarded
    total = sum(len(part.questions) for part in asked) * (len(rows) + len(widths))
    with estimated("answers", total, "one --method, or a smaller --n") as tick:
        before = {
            beams: [
                answer(pair.model, pair.tokenizer, part.questions, Contestant("none", beams=beams), tick)
                for part in asked
            ]
            for beams in widths
        }
        for one in rows:
            found.append(judge(pair, retain, prompts, one, asked, before[one.beams], tick))
    if also:
        _measure(also, pair, retain, prompts, rows, found)
    if card and not settings:
        told = f"conceptguard eval --suite {suite} --n {n}" + (" --wordings tune" if wordings == "tune" else "")
        for one, row in zip(rows, found):
            _write_card(card, one, row, told)
    made = {"suite": suite, "set": settings, "wordings": wordings}
    report("eval", found, time.perf_counter() - begin, json, where, columns=COLUMNS, **made)
    if json != "-":
        _by_form(found)
        _by_benchmark(found, also)
    guarded = [row for row in found if row["method"].startswith("guard")]
    if check and not all(row["passes"] for row in guarded):
        raise typer.Exit(1)


def _measure(
    also: Sequence[str], pair: Any, retain: Any, suite: LanguageSuite, rows: Sequence[Contestant], found: list[Any]
) -> None:
    """Columns of benchmarks, into the rows."""
    from ..measuring.language.benchmarks import Benchmarks
    from .progress import progress

    with progress("benchmarks", len(also) * (len(rows) + 1)) as tick:
        measured = Benchmarks(also, retain, suite, tick)
        for one, row in zip(rows, found):
            row |= measured.of(retain if one.other_model else pair, one)


def _by_benchmark(rows: Sequence[dict[str, Any]], also: Sequence[str]) -> None:
    """The same, row by row."""
    from .output import print_table

    for name in also:
        print()
        columns = [column for column in rows[0] if column.startswith(f"{name}_")]
        print_table([{"method": row["method"], **{column: row[column] for column in columns}} for row in rows])


def _write_card(root: Path, one: Contestant, row: dict[str, Any], command: str) -> None:
    """Figures of a row go into the card of an artifact that was judged alone, as it is set up by itself."""
    from ..measuring.cards import write_card
    from ..registry import default_registry

    guards = one.policy.guards if one.policy else []
    if len(guards) == 1 and guards[0].artifact and not guards[0].settings and one.beams == 1:
        row_of = f"--method {one.method}" if one.method == guards[0].method else f"--policy {one.method}"
        write_card(root, default_registry().load(guards[0].artifact), row, f"{command} {row_of}", None)


def contestants(
    suite: LanguageSuite, methods: Sequence[str], policies: Sequence[str | Policy], settings: dict[str, Any]
) -> list[Contestant]:
    """The rows: those of some methods, or all; policies as they are. Raises PolicyError for a method without a row."""
    from ..errors import PolicyError
    from ..measuring.language.evaluate import Contestant, answers, keys
    from ..policy_file import load_policy

    facts = keys(suite)
    about = {"name": "forget-authors", "prompts": list(facts)}
    said = {"name": "forget-authors", "prompts": list(answers(suite))}

    def policy(method: str, **more: Any) -> Any:
        return load_policy({"name": method, "guards": [{"method": method, **more, **settings}]})

    def guard(label: str, beams: int = 1, **more: Any) -> Contestant:
        artifact = f"{suite.forms.base}/guard/forget-authors"
        return Contestant(label, policy("guard", artifact=artifact, **more), beams=beams)

    known = {
        "none": lambda: [Contestant("none")],
        "bad_words": lambda: [Contestant("bad_words", bad_words=facts)],
        "phrases": lambda: [Contestant("phrases", policy("phrases", concept=about))],
        "guard": lambda: [
            guard("guard match=tokens", match="tokens"), guard("guard match=meaning", match="meaning"), guard("guard"),
            guard("guard nearest=1", nearest=1), guard("guard, beam of 7", beams=7),
        ],
        "sentence_check": lambda: [Contestant("sentence_check", policy("sentence_check", concept=said))],
        "retain": lambda: [Contestant("retain", other_model=True)],
    }  # fmt: skip
    for method in methods:
        if method not in known:
            raise PolicyError(f"no row '{method}' in the language suite: it has {', '.join(known)}; or give a --policy")
    chosen = methods or ([] if policies else list(known))
    rows = [one for method in chosen for one in known[method]()]
    return [*rows, *(Contestant(rules.name, rules) for rules in map(load_policy, policies))]


def _by_form(rows: Sequence[dict[str, Any]]) -> None:
    """Which forms of a question brought a fact back."""
    from ..measuring.language.suite import FORMS
    from .output import print_table

    before = {"erased, by form": "before", **{form: rows[0][f"before_{form}"] for form in FORMS}} if rows else {}
    after = [{"erased, by form": r["method"], **{form: r[f"after_{form}"] for form in FORMS}} for r in rows]
    print()
    print_table([before, *after])
