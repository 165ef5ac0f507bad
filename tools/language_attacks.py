"""What comes back of what `npo` and `rmu` made authors-lm forget: their weights are attacked as they are.

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
from conceptguard.text_attack import TEXT_BUDGETS, TextAttack

from .rows import parser_of, write_rows
from .unlearned import changed, learnt

METHODS = ("npo", "rmu")


def main() -> None:
    write_rows("language_attacks", attacked(), parser_of(__doc__).parse_args().json)


def attacked() -> Iterator[dict[str, Any]]:
    """The rows of `conceptguard redteam --suite language --budget small` for each method."""
    suite, attacks = load_language_suite(), attack_kinds(None, TextAttack)
    pair, never = (conceptguard.load_model(name) for name in (suite.forms.base, suite.forms.retain))
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            unlearned = changed(pair, learnt(suite, pair, method, Path(folder), classifier=0))
        plan = TextPlan(unlearned, never, None, suite, attacks, TEXT_BUDGETS["small"], before=pair)
        for row in red_team(plan):
            yield row | {"method": method}


if __name__ == "__main__":
    main()
