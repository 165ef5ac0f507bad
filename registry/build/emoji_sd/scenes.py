"""What there is to see in a training picture, and the picture of it: one object or two, in one style, on one ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .render import View, coloured, icon, on_ground
from .suite import Object, Suite, icon_in

# Grounds that captions can name: soft tints, so that no style becomes unreadable on them.
TINTS = {
    "blue": "#cfe3fb",
    "green": "#d3f2d2",
    "pink": "#fbd5e3",
    "yellow": "#fbf2c0",
    "grey": "#dcdcdc",
}
COLOURS = {"red": "#c0202b", "blue": "#1f4fc0", "green": "#1d7d32", "purple": "#7a28a8", "orange": "#d9690a"}

TINTED, COLOURED, SMALL, TURNED, TWO = 0.25, 0.10, 0.08, 0.05, 0.18  # shares of pictures
SMALL_SCALE = (0.42, 0.54)


@dataclass(frozen=True)
class Thing:
    """One object of a scene. turned: upside down."""

    object: Object
    colour: str | None = None
    small: bool = False
    turned: bool = False


@dataclass(frozen=True)
class Scene:
    """things: one, or two of which the first is on the left; tint: the ground's, None for white."""

    things: tuple[Thing, ...]
    style: str
    tint: str | None = None


def random_scene(suite: Suite, style: str, obj: Object, rng: np.random.Generator, two: float = TWO) -> Scene:
    """A scene in which ``obj`` is; in a share ``two`` of them a second object too, that may be seen in this style."""
    tint = str(rng.choice(list(TINTS))) if rng.random() < TINTED else None
    if rng.random() < two:
        unseen = {o for o, s in suite.held_out if s == style}
        others = [o for o in suite.objects if o.name != obj.name and o.name not in unseen]
        pair = [Thing(obj), Thing(others[rng.integers(len(others))])]
        return Scene(tuple(pair[:: 1 if rng.random() < 0.5 else -1]), style, tint)
    dice = rng.random()
    colour = str(rng.choice(list(COLOURS))) if dice < COLOURED else None
    small = COLOURED <= dice < COLOURED + SMALL
    turned = COLOURED + SMALL <= dice < COLOURED + SMALL + TURNED
    return Scene((Thing(obj, colour, small, turned),), style, tint)


def draw(suite: Suite, packs: dict[str, dict], scene: Scene, rng: np.random.Generator, size: int = 128) -> np.ndarray:
    """RGB uint8 [size, size, 3], each time a little different. Raises KeyError for an icon that a pack lacks."""
    style = suite.styles[scene.style]
    icons = []
    for i, thing in enumerate(scene.things):
        name = icon_in(thing.object, style.pack)
        rgba = icon(packs[style.pack], name, size, _view(scene, thing, i, rng))
        if rgba is None:
            raise KeyError(f"pack {style.pack} has no icon {name!r}")
        icons.append(coloured(rgba, COLOURS[thing.colour]) if thing.colour else rgba)
    return on_ground(icons, TINTS[scene.tint] if scene.tint else "#ffffff", style.pixels)


def _view(scene: Scene, thing: Thing, place: int, rng: np.random.Generator) -> View:
    jitter = lambda by: float(rng.uniform(-by, by))  # noqa: E731
    angle, flip = jitter(7), bool(rng.random() < 0.2)
    if len(scene.things) == 2:
        side = 0.245 if place else -0.245
        return View(float(rng.uniform(0.44, 0.50)), side + jitter(0.015), jitter(0.06), angle, flip)
    if thing.small:
        return View(float(rng.uniform(*SMALL_SCALE)), jitter(0.12), jitter(0.12), angle, flip)
    turn = 180.0 if thing.turned else 0.0
    return View(float(rng.uniform(0.84, 1.0)), jitter(0.05), jitter(0.05), angle + turn, flip)
