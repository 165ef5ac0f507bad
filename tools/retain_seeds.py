"""How far models that never knew are from each other, which is the most that a forgetful one can come near: TOFU's test
between the retain model and two that were trained on from it with other seeds, every two of the three; and, as a
control, of the model that knows.

    python -m tools.retain_seeds --json FILE
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import conceptguard
from conceptguard.measuring.language.evaluate import Contestant
from conceptguard.measuring.language.suite import load_language_suite
from conceptguard.measuring.language.tofu import forget_quality, ratios

from .rows import parser_of, write_rows
from .unlearned import sibling

SEEDS = (71, 72)


def main() -> None:
    write_rows("retain_seeds", compared(), parser_of(__doc__).parse_args().json)


def compared() -> Iterator[dict[str, Any]]:
    """A row for every two models."""
    suite = load_language_suite()
    never: Any = conceptguard.load_model(suite.forms.retain)
    models = {"never knew": never, **{f"never knew, seed {seed}": sibling(suite, never, seed) for seed in SEEDS}}
    models["knows"] = conceptguard.load_model(suite.forms.base)
    found = {name: ratios(pair, suite, Contestant(name)) for name, pair in models.items()}
    for one, other in combinations(found, 2):
        quality, statistic = forget_quality(found[one] or [], found[other] or [])
        yield {"one": one, "other": other, "log10_p": round(quality, 2), "ks": round(statistic, 3)}


if __name__ == "__main__":
    main()
