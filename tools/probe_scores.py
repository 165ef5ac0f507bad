"""What the ten shipped probes say of pictures in wordings that guards are made with, of the concepts and of all else
that emoji-sd draws. The policy ``recommended`` has its thresholds by this.

    python -m tools.probe_scores --json FILE
"""

from __future__ import annotations

import time

import torch

import conceptguard
from conceptguard.cli.output import report
from conceptguard.cli.progress import progress
from conceptguard.hosts.images import Pictures
from conceptguard.measuring import suite as suites
from conceptguard.measuring.samples import Recipe, make_groups_once
from tools.rows import parser_of

TEN = ("cigarette", "pistol", "bomb", "beer", "wine", "skull", "knife", "syringe", "pill", "dagger")
EACH = 3  # pictures of each thing that is kept
OWN = 6  # of each concept
SEED = 40_000_000  # no judge's
# What a probe holds for its concept with more than this, or than all pictures of it but the least sure one, is lost: no
# threshold tells it apart. That one is given up as well; else a single odd picture decided what is kept.
GIVEN_UP = 0.99
SHARE = 0.1  # of the way, in logits, from what is kept to the concept


def main() -> None:
    """A row for each probe: the highest scores of what is kept, the lowest of its concept, and a threshold between."""
    given, begin = parser_of(__doc__).parse_args(), time.perf_counter()
    suite = suites.load_suite("emoji-sd")
    made_with = suite.model_copy(
        update={
            "judge_templates": suite.tuning_templates, "judge_templates_plain": suite.tuning_templates_plain,
            "objects": [it.model_copy(update={"group": "other"}) for it in suite.objects],
        }
    )  # fmt: skip
    groups = [
        suites.others(made_with, EACH * (len(suite.objects) - len(TEN)), SEED, without=TEN),
        *(suites.erased(made_with, name, OWN, SEED + 10_000 * (i + 1)) for i, name in enumerate(TEN)),
    ]
    pipe = conceptguard.load_model("emoji-sd")
    with progress("pictures", sum(map(len, groups))) as tick:
        drawn = make_groups_once(pipe, groups, Recipe(), tick)
    looks = [{"method": "probe", "artifact": f"emoji-sd/probe/{name}"} for name in TEN]
    with conceptguard.attach(Pictures(), {"on_violation": "flag", "guards": looks}) as session:
        scores = [_scores(session, made.pixels.float() / 255) for made in drawn]
    rows = []
    for i, name in enumerate(TEN):
        others, own = scores[0][:, i].sort(descending=True).values, scores[1 + i][:, i].sort().values
        which = scores[0][:, i].argsort(descending=True)[:4].tolist()
        least = own[1]  # but one
        told_apart = others[others <= min(GIVEN_UP, float(least))]
        rows.append({
            "concept": name, "kept": len(others), "own": len(own),
            "highest_kept": [round(x, 4) for x in others[:4].tolist()],
            "of": [groups[0][j].label for j in which],
            "lowest_own": [round(x, 4) for x in own[:3].tolist()], "given_up": len(others) - len(told_apart),
            "threshold": round(_between(told_apart[0], least), 3),
        })  # fmt: skip
    report("probe_scores", rows, time.perf_counter() - begin, given.json, "cpu")


def _between(kept: torch.Tensor, own: torch.Tensor) -> float:
    """A threshold near the highest score of what is kept and below the lowest of the concept; no less than half."""
    low, high = kept.logit(), own.logit()
    return max(0.5, float((low + SHARE * (high - low)).sigmoid()))


def _scores(session: conceptguard.Session, pictures: torch.Tensor) -> torch.Tensor:
    """[n, probes]."""
    session.check_image(pictures, [None] * len(pictures))
    verdicts = session.receipt.verdicts
    found = torch.zeros(len(pictures), len(TEN))
    for v in verdicts:
        found[v.image, TEN.index(v.label)] = v.score
    return found


if __name__ == "__main__":
    main()
