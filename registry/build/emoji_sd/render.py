"""Draw one emoji of an iconify pack as an RGB array, seen a little differently each time.

Views differ by rewriting the SVG's viewBox and transform, so every view is drawn sharp instead of being resampled.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import resvg_py
from PIL import Image

# Backgrounds that captions can name: soft tints, so that no style becomes unreadable on them.
TINTS = {
    "blue": "#cfe3fb",
    "green": "#d3f2d2",
    "pink": "#fbd5e3",
    "yellow": "#fbf2c0",
    "grey": "#dcdcdc",
}
INK = "#222"  # what an icon without a colour of its own is drawn with


@dataclass(frozen=True)
class View:
    """How an emoji is seen: `scale` of the frame, `dx` and `dy` in frame widths, `angle` in degrees."""

    scale: float = 1.0
    dx: float = 0.0
    dy: float = 0.0
    angle: float = 0.0
    flip: bool = False
    background: str = "white"


def random_view(rng: np.random.Generator, flip: bool = True, tinted: float = 0.3) -> tuple[View, str | None]:
    """A random view and the name of its tint (None on white)."""
    tint = str(rng.choice(list(TINTS))) if rng.random() < tinted else None
    view = View(
        scale=float(rng.uniform(0.86, 1.04)),
        dx=float(rng.uniform(-0.05, 0.05)),
        dy=float(rng.uniform(-0.05, 0.05)),
        angle=float(rng.uniform(-7, 7)),
        flip=bool(flip and rng.random() < 0.2),
        background=TINTS[tint] if tint else "white",
    )
    return view, tint


def find_icon(pack: dict, name: str) -> dict | None:
    """The icon `name` of a pack's icons.json, through aliases; None when the pack lacks it."""
    for _ in range(5):
        if name not in pack.get("aliases", {}):
            break
        name = pack["aliases"][name]["parent"]
    return pack["icons"].get(name)


def render(pack: dict, name: str, size: int = 128, view: View = View()) -> np.ndarray | None:
    """RGB uint8 array [size, size, 3], or None when the pack lacks `name`."""
    icon = find_icon(pack, name)
    if icon is None:
        return None
    w = icon.get("width", pack.get("width", 16))
    h = icon.get("height", pack.get("height", 16))
    left, top = icon.get("left", pack.get("left", 0)), icon.get("top", pack.get("top", 0))
    side = max(w, h)
    cx, cy = left + w / 2, top + h / 2
    sx = -view.scale if view.flip else view.scale
    transform = (
        f"translate({cx + view.dx * side} {cy + view.dy * side}) rotate({view.angle}) "
        f"scale({sx} {view.scale}) translate({-cx} {-cy})"
    )
    body = icon["body"].replace("currentColor", INK)
    x0, y0 = cx - side / 2, cy - side / 2
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" viewBox="{x0} {y0} {side} {side}">'
        f'<rect x="{x0}" y="{y0}" width="{side}" height="{side}" fill="{view.background}"/>'
        f'<g transform="{transform}">{body}</g></svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
