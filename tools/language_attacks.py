"""What comes back of what `rocr` redirects inside of authors-lm, opened by a classifier, as a policy; and of what `npo`
and `rmu` made it forget, whose weights are attacked as they are.

python -m tools.language_attacks --json FILE
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import conceptguard
from conceptguard.attacking.language.run import red_team
from conceptguard.attacking.language.sides import TextPlan
from conceptguard.cli.attack_names import attack_kinds
from conceptguard.measuring.language.suite import load_language_suite
from conceptguard.policy_file import load_policy
from conceptguard.text_attack import TEXT_BUDGETS, TextAttack

from .redirection import redirected
from .rows import parser_of, write_rows
from .unlearned import changed, learnt

METHODS = ("npo", "rmu")


def main() -> None:
    write_rows("language_attacks", attacked(), parser_of(__doc__).parse_args().json)


def attacked() -> Iterator[dict[str, Any]]:
    """The rows of `conceptguard redteam --suite language --budget small` for each method."""
    suite, attacks = load_language_suite(), attack_kinds(None, TextAttack)
    pair, never = (conceptguard.load_model(name) for name in (suite.forms.base, suite.forms.retain))
    with tempfile.TemporaryDirectory() as folder:
        guard = {"method": "rocr", "artifact": str(redirected(pair, suite, Path(folder)))}
        rules = load_policy({"name": "rocr", "guards": [guard]})
        yield from red_team(TextPlan(pair, never, rules, suite, attacks, TEXT_BUDGETS["small"]))
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            unlearned = changed(pair, learnt(suite, pair, method, Path(folder), classifier=0))
        plan = TextPlan(unlearned, never, None, suite, attacks, TEXT_BUDGETS["small"], before=pair)
        for row in red_team(plan):
            yield row | {"method": method}


if __name__ == "__main__":
    main()
