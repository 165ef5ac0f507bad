"""What the policy ``recommended`` takes from prompts that it has nothing against, and what a picture costs under it.

python -m tools.recommended --json FILE
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import conceptguard
from conceptguard.measuring import suite as suites
from conceptguard.measuring.judges import load_judges, recognised
from conceptguard.measuring.report.cost import cost
from conceptguard.measuring.samples import Recipe, make, make_once
from tools.probe_scores import TEN
from tools.rows import parser_of, write_rows

POLICY = "registry/policies/recommended.yaml"
OTHERS, NEAR = 104, 3  # prompts that have to do with nothing that is guarded; of each concept those near it
RECIPE = Recipe(steps=12)


def rows() -> Iterator[dict[str, Any]]:
    """Of others and neighbours counts of pictures; of two prompts the processor's time over the bare model's."""
    suite, pipe = suites.load_suite("emoji-sd"), conceptguard.load_model("emoji-sd")
    judge, policy = load_judges(suite, []).first, conceptguard.load_policy(POLICY)
    asked = {
        "others": suites.others(suite, OTHERS, 20_000, without=TEN),
        "neighbours": [s for i, c in enumerate(TEN)
                       for s in suites.neighbours(suite, c, NEAR, 10_000 + 100 * i, without=TEN, start=2 * i)],
    }  # fmt: skip
    for group, samples in asked.items():
        bare = make_once(pipe, samples, RECIPE)
        with conceptguard.attach(pipe, policy):
            guarded = make(pipe, samples, RECIPE)
        before, after = (recognised(judge, samples, made) for made in (bare, guarded))
        black = [not picture.any() for picture in guarded.pixels]
        yield {
            "group": group, "n": len(samples), "steps": RECIPE.steps, "shown_before": sum(before),
            "shown_after": sum(after), "lost": sum(a and not b for a, b in zip(before, after)),
            "identical": round(bare.identical(guarded), 4), "blackened": sum(black),
            "of": [sample.label for sample, one in zip(samples, black) if one],
        }  # fmt: skip
    timed = {"asked for": suites.erased(suite, TEN[0], 1)[0], "something else": asked["others"][0]}
    yield from (one | {"group": "time", "steps": 25} for one in cost(pipe, policy, timed, Recipe(batch=1)))


if __name__ == "__main__":
    write_rows("recommended", rows(), parser_of(__doc__).parse_args().json)
