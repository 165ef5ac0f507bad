"""Two objects side by side on a canvas twice as wide, each as large as emoji-sd draws one alone: scenes and captions.

Neighbours in the ring of ``OBJECTS`` never stand beside each other in a picture that is trained on: whether the sibling
draws them together says whether it learnt to compose, or pairs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..emoji_sd.captions import EMPTY
from ..emoji_sd.scenes import Scene, Thing, draw
from ..emoji_sd.suite import Suite

OBJECTS = ("skull", "dog", "apple", "bomb", "cat", "banana", "snake", "tree", "fish", "sunflower", "house", "car")
STYLES = ("noto", "fluent")
ONE = 0.2  # share of pictures with one object, on either side, and nothing beside it


def left_out(one: str, other: str) -> bool:
    """Whether two of ``OBJECTS`` are never seen together in training."""
    between = abs(OBJECTS.index(one) - OBJECTS.index(other))
    return between in (1, len(OBJECTS) - 1)


def any_pair(suite: Suite, rng: np.random.Generator) -> Scene:
    """Two objects on white, the first on the left, in one style; now and then one alone."""
    style, one = str(rng.choice(STYLES)), str(rng.choice(OBJECTS))
    others = [it for it in OBJECTS if it != one and not left_out(one, it)]
    names = [one] if rng.random() < ONE else [one, str(rng.choice(others))]
    return Scene(tuple(Thing(suite.object(name)) for name in names), style)


def side_by_side(suite: Suite, icons: Mapping[str, dict], scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """uint8 [128, 256, 3]."""
    drawn = [draw(suite, dict(icons), Scene((thing,), scene.style), rng) for thing in scene.things]
    if len(drawn) == 1:
        drawn.insert(int(rng.integers(2)), np.full_like(drawn[0], 255))
    return np.concatenate(drawn, 1)


def caption(suite: Suite, scene: Scene, rng: np.random.Generator) -> str:
    """One of the training wordings, with the style in half of them; empty now and then.

    Where nobody says what is left it is what is named first: half as much to learn as either order.
    """
    if rng.random() < EMPTY:
        return ""
    one = lambda key: str(rng.choice(suite.training[key]))  # noqa: E731
    styled, things = rng.random() < 0.5, [thing.object for thing in scene.things]
    if len(things) == 1:
        text = one("styled" if styled else "plain")
        return text.format(thing=things[0].thing, noun=things[0].name, style=scene.style)
    left, right = (it.thing for it in things)
    text = one("placed" if rng.random() < 0.4 else "pairs").format(left=left, right=right, one=left, other=right)
    return one("pairs_styled").format(pair=text, style=scene.style) if styled else text
