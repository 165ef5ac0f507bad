"""Draw icons of iconify packs as RGBA arrays, and put one or two of them on a ground.

Views differ by rewriting the SVG's viewBox and transform, so every view is drawn sharp instead of being resampled.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import resvg_py
from PIL import Image

INK = "#222"  # what an icon without a colour of its own is drawn with


@dataclass(frozen=True)
class View:
    """How an icon is seen: `scale` of the frame, `dx` and `dy` in frame widths, `angle` in degrees."""

    scale: float = 1.0
    dx: float = 0.0
    dy: float = 0.0
    angle: float = 0.0
    flip: bool = False


def find_icon(pack: dict, name: str) -> dict | None:
    """The icon `name` of a pack's icons.json, through aliases; None when the pack lacks it."""
    for _ in range(5):
        if name not in pack.get("aliases", {}):
            break
        name = pack["aliases"][name]["parent"]
    return pack["icons"].get(name)


def icon(pack: dict, name: str, size: int = 128, view: View = View()) -> np.ndarray | None:
    """RGBA uint8 array [size, size, 4], clear where the icon is not; None when the pack lacks `name`."""
    found = find_icon(pack, name)
    if found is None:
        return None
    w = found.get("width", pack.get("width", 16))
    h = found.get("height", pack.get("height", 16))
    left, top = found.get("left", pack.get("left", 0)), found.get("top", pack.get("top", 0))
    side = max(w, h)
    cx, cy = left + w / 2, top + h / 2
    sx = -view.scale if view.flip else view.scale
    transform = (
        f"translate({cx + view.dx * side} {cy + view.dy * side}) rotate({view.angle}) "
        f"scale({sx} {view.scale}) translate({-cx} {-cy})"
    )
    body = found["body"].replace("currentColor", INK)
    x0, y0 = cx - side / 2, cy - side / 2
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" viewBox="{x0} {y0} {side} {side}">'
        f'<g transform="{transform}">{body}</g></svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def coloured(rgba: np.ndarray, colour: str) -> np.ndarray:
    """An icon in one colour: what was black is the colour, what was white stays white."""
    grey = rgba[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    ink = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32)
    # Bright pictures would be nearly white: half of their brightness is taken away first.
    rgb = ink + (255 - ink) * (grey[..., None] ** 2)
    return np.concatenate([rgb.round().astype(np.uint8), rgba[..., 3:]], -1)


def on_ground(icons: list[np.ndarray], ground: str = "#ffffff", pixels: int | None = None) -> np.ndarray:
    """RGB uint8 [size, size, 3]: RGBA icons one over the other on a ground of one colour.

    pixels: how many squares a side, for pictures that look as if they had only so many pixels
    """
    size = icons[0].shape[0]
    canvas = Image.new("RGBA", (size, size), ground)
    for one in icons:
        canvas.alpha_composite(Image.fromarray(one, "RGBA"))
    flat = canvas.convert("RGB")
    if pixels:
        flat = flat.resize((pixels, pixels), Image.Resampling.BOX).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(flat)
