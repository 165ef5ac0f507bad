"""Pictures of which it is known what they show, and where: what finders are judged on.

The embedded model draws single objects, an independent judge keeps those that it recognises, and they are put together
on a ground of one colour, with a mark now and then. So every mask is exact, and anything can really be taken away
again: the same picture without it is composed anew. The encoder was trained on renderings, and never saw what is drawn
here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..finder import PictureSet
from ..measuring.judges import load_judge
from ..measuring.samples import Recipe, make_once
from ..measuring.suite import Sample

OBJECTS = ("skull", "beer", "guitar", "apple", "dog", "car", "umbrella", "sunflower")
STYLES = ("noto", "mono")
PLANTED = (*OBJECTS, *STYLES, "white", "tint", "mark")  # objects, their styles, grounds, and a mark
GUARDED, KEPT = "guarded", "kept"
FIRST = OBJECTS[0]  # what makes a picture guarded
SIDE, SPRITE, MARK = 128, 62, 26  # pixels: of a picture, of an object in it, of the mark
TINTED, MONO, MARKED, TWO = 0.35, 0.35, {GUARDED: 0.8, KEPT: 0.15}, 0.7  # shares of pictures
TINT, INK = (0.83, 0.95, 0.83), (0.85, 0.1, 0.75)
SEEDS = {"judge": 8_100_000, "tune": 8_400_000}  # finders are compared on the second, and judged on the first
APART = 10_000  # from the seeds of one drawing to the next one's
TAKES = 3  # pictures that are drawn of each, of which those count that the judge recognises


@dataclass(frozen=True)
class Scene:
    """objects: (name, which of its sprites, left, top); style: of all; marked: where the mark is"""

    objects: tuple[tuple[str, int, int, int], ...]
    style: str
    tinted: bool
    marked: tuple[int, int] | None


@dataclass
class Planted:
    """truths: of each planted thing, in which pictures it is, [n]; masks: where, [n, side, side]; without: the same
    pictures, with that thing really taken away"""

    pictures: PictureSet
    truths: dict[str, Tensor]
    masks: dict[str, Tensor]
    without: Callable[[str], PictureSet] = field(repr=False)


def plant(
    pipe: Any,
    n: int = 120,
    part: str = "judge",
    steps: int = 25,
    tick: Callable[[int], None] = lambda n: None,
    drawing: int = 0,
) -> Planted:
    """n pictures, every third guarded. part: "judge" or "tune"; drawing: which one, each has other seeds; tick: hears
    of ``sprites_drawn`` pictures."""
    seed = SEEDS[part] + drawing * APART
    sprites = drawn_alone(pipe, seed, steps, tick)
    random = torch.Generator().manual_seed(seed + n)
    scenes = [_scene(i, sprites, random) for i in range(n)]
    drawn = [compose(scene, sprites) for scene in scenes]
    truths = {name: torch.tensor([name in masks for _, masks in drawn]) for name in PLANTED}
    nothing = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    masks = {name: torch.stack([masks.get(name, nothing) for _, masks in drawn]) for name in truths}
    names = [f"{i:03}" for i in range(n)]
    classes = [GUARDED if FIRST in {one[0] for one in scene.objects} else KEPT for scene in scenes]
    pictures = PictureSet(torch.stack([_bytes(pixels) for pixels, _ in drawn]), names, classes)

    def without(name: str) -> PictureSet:
        pixels = torch.stack([_bytes(compose(_less(scene, name), sprites)[0]) for scene in scenes])
        return PictureSet(pixels, names, classes)

    return Planted(pictures, truths, masks, without)


def sprites_drawn() -> int:
    """How many pictures planting draws."""
    return len(OBJECTS) * len(STYLES) * TAKES


def drawn_alone(
    pipe: Any, seed: int, steps: int, tick: Callable[[int], None] = lambda n: None
) -> dict[tuple[str, str], list[Tensor]]:
    """Of each object in each style, pictures [3, SPRITE, SPRITE] in [0, 1] that the judge recognises, or the first."""
    asked = [(name, style) for name in OBJECTS for style in STYLES]
    samples = [Sample(f"{_thing(name)}, {style} style", seed + 100 * i + take, "object", name)
               for i, (name, style) in enumerate(asked) for take in range(TAKES)]  # fmt: skip
    drawn = make_once(pipe, samples, Recipe(steps), tick)
    seen = load_judge("emoji-sd").judge(drawn.pixels.float() / 255).objects
    small = F.interpolate(drawn.pixels.float() / 255, (SPRITE, SPRITE), mode="bilinear", antialias=True)
    found: dict[tuple[str, str], list[Tensor]] = {}
    for i, key in enumerate(asked):
        rows = range(TAKES * i, TAKES * (i + 1))
        found[key] = [small[row] for row in rows if seen[row] == key[0]] or [small[rows[0]]]
    return found


def _thing(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _scene(i: int, sprites: dict[tuple[str, str], list[Tensor]], random: torch.Generator) -> Scene:
    """The i-th: every third one shows what is guarded."""

    def chance(share: float) -> bool:
        return bool(torch.rand((), generator=random) < share)

    def number(below: int) -> int:
        return int(torch.randint(below, (), generator=random))

    guarded = i % 3 == 0
    others = [OBJECTS[1 + j] for j in torch.randperm(len(OBJECTS) - 1, generator=random).tolist()]
    names = [FIRST, *others][: 1 + chance(TWO)] if guarded else others[: 1 + chance(TWO)]
    style = STYLES[chance(MONO)]
    halves = torch.randperm(2, generator=random).tolist()
    objects = tuple(
        (
            name,
            number(len(sprites[name, style])),
            half * (SIDE // 2) + number(3),
            number(SIDE - SPRITE - MARK) + MARK // 2,
        )
        for name, half in zip(names, halves)
    )
    corner = (number(2) * (SIDE - MARK), number(2) * (SIDE - MARK))
    return Scene(objects, style, chance(TINTED), corner if chance(MARKED[GUARDED if guarded else KEPT]) else None)


def compose(scene: Scene, sprites: dict[tuple[str, str], list[Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
    """A picture [3, SIDE, SIDE] in [0, 1], and where each planted thing is in it."""
    ground = torch.tensor(TINT if scene.tinted else (1.0, 1.0, 1.0)).view(3, 1, 1)
    pixels = ground.expand(3, SIDE, SIDE).clone()
    masks: dict[str, Tensor] = {}
    for name, which, left, top in scene.objects:
        sprite = sprites[name, scene.style][which]
        # Drawn on white: what is darker is the object, and the ground shines through the rest.
        ink = (1 - sprite.amin(0)).clamp(0, 1)
        cover = (ink * 6).clamp(0, 1)
        wide = min(SPRITE, SIDE - left)
        place = (slice(top, top + SPRITE), slice(left, left + wide))
        under = pixels[:, place[0], place[1]]
        pixels[:, place[0], place[1]] = under * (1 - cover[:, :wide]) + sprite[:, :, :wide] * cover[:, :wide]
        there = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        there[place] = ink[:, :wide] > 0.12
        masks[name] = there
    if masks:
        masks[scene.style] = torch.stack(list(masks.values())).any(0)
    if scene.marked:
        top, left = scene.marked
        shape = mark_shape()
        pixels[:, top : top + MARK, left : left + MARK][:, shape] = torch.tensor(INK)[:, None]
        masks["mark"] = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        masks["mark"][top : top + MARK, left : left + MARK] = shape
    bare = ~torch.stack([torch.zeros(SIDE, SIDE, dtype=torch.bool), *masks.values()]).any(0)
    masks["tint" if scene.tinted else "white"] = bare
    return pixels, masks


def mark_shape() -> Tensor:
    """A ring with a bar across it, [MARK, MARK]: nothing that the model or the encoder has a word for."""
    at = torch.linspace(-1, 1, MARK)
    far = (at[:, None] ** 2 + at[None, :] ** 2).sqrt()
    return ((far < 0.95) & (far > 0.6)) | ((at[:, None] - at[None, :]).abs() < 0.22) & (far < 0.95)


def _less(scene: Scene, name: str) -> Scene:
    if name in OBJECTS:
        return replace(scene, objects=tuple(one for one in scene.objects if one[0] != name))
    if name == scene.style:
        # The sprites of the other style, as far as there are as many.
        other = STYLES[1 - STYLES.index(name)]
        return replace(scene, style=other, objects=tuple((n, 0, x, y) for n, _, x, y in scene.objects))
    tinted = {"tint": False, "white": True}.get(name, scene.tinted)
    return replace(scene, tinted=tinted, marked=None if name == "mark" else scene.marked)


def _bytes(pixels: Tensor) -> Tensor:
    return (pixels.clamp(0, 1) * 255).round().byte()
