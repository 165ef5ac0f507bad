"""The sheet of tiles that emoji-captioner is trained on: a row for each object of emoji-sd, a column for each style."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from ..emoji_sd.packs import load_pack
from ..emoji_sd.render import icon, on_ground
from ..emoji_sd.suite import icon_in, load_suite
from .model import SIZE

PIXELS = SIZE // 2  # squares a side of the style that has squares, so many that a tile still shows them
VIEWS, SEED = 4, 24_000


def draw(out: Path, cache: Path) -> None:
    """Write examples.png and examples.yaml, in the format of ``conceptguard.making.examples``."""
    suite = load_suite()
    packs = {name: load_pack(name, cache) for name in sorted({it.pack for it in suite.styles.values()})}
    rows = []
    for one in suite.objects:
        drawn = [(icon(packs[it.pack], icon_in(one, it.pack), SIZE), it.pixels) for it in suite.styles.values()]
        rows.append(np.concatenate([on_ground([it], pixels=squares and PIXELS) for it, squares in drawn], axis=1))
    said = {
        "classes": [one.name for one in suite.objects], "styles": list(suite.styles), "unseen": [],
        "held": dict(suite.held_out), "sheet": "examples.png", "tile": SIZE, "size": SIZE, "views": VIEWS,
        "seed": SEED,
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    sheet = Image.fromarray(np.concatenate(rows))
    # As many colours as a palette has, for half of the bytes.
    sheet.quantize(256, dither=Image.Dither.NONE).save(out / "examples.png", optimize=True)
    (out / "examples.yaml").write_text(yaml.safe_dump(said, sort_keys=False, width=118))
