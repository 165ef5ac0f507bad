"""Which authors of the embedded language model are the hardest to forget, by a bi-level search, beside others.

python -m tools.worst_case
"""

from __future__ import annotations

from typing import Any

import conceptguard
from conceptguard.attacking.language.worst_case import Bilevel, worst_case
from conceptguard.measuring.language.suite import load_language_suite
from tools.rows import parser_of, write_rows


def main() -> None:
    arguments = parser_of(__doc__).parse_args()
    suite = load_language_suite()
    pair: Any = conceptguard.load_model(suite.forms.base)
    write_rows("worst_case", worst_case(pair, suite, Bilevel()), arguments.json)


if __name__ == "__main__":
    main()
