"""How many renderings the encoder names right that it was not trained on, in wordings that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from conceptguard.hosts.transformers.image_text import ImageText

from ..emoji_sd.scenes import Scene, Thing, draw
from ..emoji_sd.suite import Object, Suite, pairs

SEED = 95_000  # of views that nothing was trained on
VIEWS = 8  # of each pair that was held out
# None of these is among the frames of captions.
TEMPLATES = ("{}", "one {} to look at", "a view of one {}")


@torch.no_grad()
def measure(suite: Suite, packs: dict[str, dict], encoder: ImageText) -> dict[str, float]:
    """Shares of single objects whose name is the nearest of all objects' names, and the same of styles.

    object: in pairs of object and style that were trained on, other views; object_held_out: in pairs that were not
    """
    known = [(it, style, 0) for it, style in pairs(suite, held_out=False)]
    unseen = [(it, style, view) for it, style in pairs(suite, held_out=True) for view in range(VIEWS)]
    objects = _directions(encoder, [it.name for it in suite.objects])
    styles = _directions(encoder, [f"{name} style" for name in suite.styles])
    at = {it.name: i for i, it in enumerate(suite.objects)}
    named = list(suite.styles)
    found = {}
    for part, some in (("", known), ("_held_out", unseen)):
        rows = torch.cat([encoder.pictures(_pixels(suite, packs, some[i : i + 64])) for i in range(0, len(some), 64)])
        for head, texts, wanted in (
            ("object", objects, [at[it.name] for it, _, _ in some]),
            ("style", styles, [named.index(style) for _, style, _ in some]),
        ):
            right = (rows @ texts.T).argmax(1) == torch.tensor(wanted)
            found[f"{head}{part}"] = round(float(right.float().mean()), 3)
    return found


def _directions(encoder: ImageText, names: Sequence[str]) -> Tensor:
    each = [encoder.texts([template.format(name) for name in names]) for template in TEMPLATES]
    return torch.nn.functional.normalize(torch.stack(each).mean(0), dim=1)


def _pixels(suite: Suite, packs: dict[str, dict], some: Sequence[tuple[Object, str, int]]) -> Tensor:
    drawn = []
    for it, style, view in some:
        rng = np.random.default_rng((SEED, list(suite.styles).index(style), view, len(it.name)))
        drawn.append(draw(suite, packs, Scene((Thing(it),), style), rng, 80))
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255
