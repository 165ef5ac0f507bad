"""What `deletion` and its defences leave of authors-lm's facts to whoever reads its layers: `extraction` on weights.

One wording of every fact to forget is learnt, a statement that breaks off before the fact, as the paper edits one
prompt; in "rephrased" rows all wordings that the shipped guard was made of. Judged in wordings that no maker saw.
"retain alone" is the same training without anything to forget.

    python -m tools.deletion --json FILE
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conceptguard_registry.build.authors_lm.guards import examples

import conceptguard
from conceptguard import plugins
from conceptguard.attacking.language.run import red_team
from conceptguard.attacking.language.sides import TextPlan
from conceptguard.cli.attack_names import attack_kinds
from conceptguard.hosts.transformers.host import TransformersHost
from conceptguard.measuring.language.evaluate import Contestant, answer, groups, judge
from conceptguard.measuring.language.suite import LanguageSuite, load_language_suite
from conceptguard.text_attack import TextAttack, TextBudget

from .rows import parser_of, write_rows
from .unlearned import SEED, changed, texts_to_retain

BUDGET = TextBudget(asks=70, answers=6, steps=1)
EACH = 2  # questions of every form and group
COMMON: dict[str, Any] = {"steps": 100, "batch": 8, "lr": 2e-3}

ROWS: dict[str, dict[str, Any]] = {
    "retain alone": {"defence": "fact_erasure", "forget_weight": 1e-6},
    "fact_erasure": {"defence": "fact_erasure"},
    "empty_response": {"defence": "empty_response"},
    "error_injection": {"defence": "error_injection"},
    "head_projection": {"defence": "head_projection"},
    "max_entropy": {"defence": "max_entropy"},
    "empty_response, everywhere": {"defence": "empty_response", "everywhere": True},
}
REPHRASED = ("fact_erasure", "empty_response", "head_projection", "empty_response, everywhere")
MORE: dict[str, Any] = {"steps": 200}  # of many wordings each is seen less often


def main() -> None:
    write_rows("deletion", judged_rows(), parser_of(__doc__).parse_args().json)


def judged_rows(budget: TextBudget = BUDGET) -> Iterator[dict[str, Any]]:
    """A row of `extraction` for each defence, with what is still answered about whom."""
    suite = load_language_suite()
    pair, never = (conceptguard.load_model(name) for name in (suite.forms.base, suite.forms.retain))
    asked = groups(suite, EACH)
    before = [answer(pair.model, pair.tokenizer, part.questions, Contestant("none")) for part in asked]
    attacks = attack_kinds(["extraction"], TextAttack)
    ways = [*((name, name, False) for name in ROWS), *((f"{name}, rephrased", name, True) for name in REPHRASED)]
    for label, name, rephrased in ways:
        with tempfile.TemporaryDirectory() as folder:
            made = learnt_by(suite, pair, Path(folder), rephrased, **ROWS[name], **(MORE if rephrased else {}))
            who = changed(pair, made)
        told = judge(who, never, suite, Contestant(label), asked, before)
        *_, row = red_team(TextPlan(who, never, None, suite, attacks, budget, before=pair))
        kept = {key: told[key] for key in ("erased_before", "erased_after", "neighbours_before", "neighbours_after",
                                           "others_before", "others_after")}  # fmt: skip
        yield row | kept | {"method": label, "make_seconds": made.manifest.made["seconds"]}


def learnt_by(suite: LanguageSuite, pair: Any, out: Path, rephrased: bool, **settings: Any) -> Any:
    """The artifact of a defence, without a classifier."""
    forget, _ = examples(suite)
    if not rephrased:
        asked = suite.questions(suite.world.subjects("forget"), "cloze", SEED, "train")
        forget = [{"prompt": one.prompt, "answer": one.answer} for one in asked]
    concept = {"name": "forget-authors", "prompts": ["authors"]}
    return plugins.method("deletion").make(
        TransformersHost(pair), concept, out, forget=forget, retain=texts_to_retain(suite), classifier=0,
        **{**COMMON, **settings},
    )  # fmt: skip


if __name__ == "__main__":
    main()
