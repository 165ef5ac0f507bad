"""The second judge's references: renderings of the first judge's kind, drawn with other seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from conceptguard.measuring.judge import NONE
from conceptguard.measuring.retrieval import RetrievalJudge, fit

from .judge import JudgeRecipe, augment, draw, nothing, other_names
from .suite import Suite

KEPT = 6  # references of each object in each style: every one more names more renderings right
NOTHING = 200  # references that show nothing at all
SEED = 178_000


def make_retrieval(suite: Suite, packs: dict[str, dict], out: Path) -> dict[str, float]:
    """Writes config.json and model.safetensors to `out`; returns shares of renderings that are no references."""
    recipe = JudgeRecipe()
    names = list(np.random.default_rng(SEED).permutation(other_names(suite, packs)))
    gen = torch.Generator().manual_seed(SEED)
    data = draw(suite, packs, recipe, SEED + 1, 8, 3, names[:150])
    order = torch.randperm(len(data.images), generator=gen)
    images, labels, styles = data.images[order], data.objects[order], data.styles[order]
    softened = torch.cat([*(augment(part, 64, gen) for part in images.split(512)), nothing(NOTHING, 64, gen)])
    none = torch.full((NOTHING,), len(suite.objects))
    labels, styles = torch.cat([labels, none]), torch.cat([styles, torch.full((NOTHING,), -1)])
    judge = fit(softened, labels, styles, [*(o.name for o in suite.objects), NONE], list(suite.styles), KEPT)
    test = draw(suite, packs, recipe, SEED + 2, 2, 0, names[150:210])
    known = test.objects != len(suite.objects)
    soft = augment(test.images, 64, gen)
    found = judge.judge(soft)
    best = found.object_probs.amax(1)
    # Nothing that is known: less alike than all but one in fifty of what is.
    judge.least = float(best[known].quantile(0.02))
    judge.save(out)
    return _shares(judge, test.images.float() / 255, soft, test.objects, known, gen)


def _shares(
    judge: RetrievalJudge, sharp: torch.Tensor, soft: torch.Tensor, labels: torch.Tensor, known: torch.Tensor,
    gen: torch.Generator,
) -> dict[str, float]:  # fmt: skip
    def right(images: torch.Tensor, which: torch.Tensor) -> float:
        named = judge.judge(images[which]).objects
        return float(np.mean([judge.objects[i] == name for i, name in zip(labels[which].tolist(), named, strict=True)]))

    return {
        "object_sharp": right(sharp, known),
        "object_soft": right(soft, known),
        "other_emoji_is_none": right(sharp, ~known),
        "nothing_is_none": float(np.mean([name == NONE for name in judge.judge(nothing(400, 64, gen)).objects])),
    }
