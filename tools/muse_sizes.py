"""The two of MUSE's six that are of many trainings: what stays as more is forgotten at once (scalability), and as one
request follows the other (sustainability), both as its KnowMem of what is to stay (Shi et al., ICLR 2025).

`npo` forgets five, ten and all twenty authors of authors-lm, each time from the model as it is; and five by five, each
time from the model that the request before left. With the settings of `tools.unlearned`, found for all twenty.

    python -m tools.muse_sizes --json FILE
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import conceptguard
from conceptguard.host import LanguageModel
from conceptguard.measuring.language.evaluate import Contestant
from conceptguard.measuring.language.muse import knowmem
from conceptguard.measuring.language.suite import LanguageSuite, load_language_suite

from .rows import parser_of, write_rows
from .unlearned import changed, learnt

METHOD, STEP = "npo", 5


def main() -> None:
    write_rows("muse_sizes", grown(), parser_of(__doc__).parse_args().json)


def grown() -> Iterator[dict[str, Any]]:
    """A row for each model."""
    suite = load_language_suite()
    pair: Any = conceptguard.load_model(suite.forms.base)
    names = list(suite.world.subjects("forget"))
    yield {"way": "as it is", "forgotten": 0, **_known(pair, suite, names)}
    left: Any = pair
    for n in range(STEP, len(names) + 1, STEP):
        left = _without(left, suite, names[n - STEP : n])
        yield {"way": "one after the other", "forgotten": n, **_known(left, suite, names[:n])}
        if n in (STEP, 2 * STEP, len(names)):
            once = left if n == STEP else _without(pair, suite, names[:n])
            yield {"way": "at once", "forgotten": n, **_known(once, suite, names[:n])}


def _without(pair: Any, suite: LanguageSuite, names: Sequence[str]) -> LanguageModel:
    with tempfile.TemporaryDirectory() as folder:
        return changed(pair, learnt(suite, pair, METHOD, Path(folder), names, classifier=0))


def _known(pair: Any, suite: LanguageSuite, names: Sequence[str]) -> dict[str, float]:
    """MUSE's KnowMem of authors that were forgotten by then, and of those that stay."""
    sets = {
        "muse_knowmem": {name: suite.world.subjects("forget")[name] for name in names},
        "muse_knowmem_retain": suite.world.subjects("retain"),
    }
    return {column: knowmem(pair, suite, some, Contestant(METHOD)) for column, some in sets.items()}


if __name__ == "__main__":
    main()
