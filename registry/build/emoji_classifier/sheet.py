"""The sheet of tiles that the embedded classifiers are trained on, and what is kept back of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from ..emoji_sd.packs import load_pack
from ..emoji_sd.render import icon, on_ground
from ..emoji_sd.suite import icon_in, load_suite

STYLES = {
    "noto": "noto", "fluent": "fluent-emoji-flat", "mono": "fluent-emoji-high-contrast",
    "outline": "emojione-monotone", "twemoji": "twemoji", "emojione": "emojione", "noto-v1": "noto-v1",
}  # fmt: skip
UNSEEN = ["emojione", "noto-v1"]
# What is judged: a class, five of them, a style, and a tenth of all pairs; and requests that come one after another.
FORGET = {
    "skull": ["skull"],
    "weapons": ["pistol", "bomb", "knife", "dagger", "swords"],
    "mono": ["*/mono/*"],
    "requests": [
        "cigarette", "beer", "wine", "syringe", "pill", "pistol", "bomb", "knife", "dagger", "swords",
        "skull", "coffin", "ghost", "alien", "pumpkin", "spider", "snake", "snail", "crab", "bee",
    ],
}  # fmt: skip
CLASSES, TILE, SIZE, VIEWS, SEED = 60, 40, 32, 5, 250


def draw(out: Path, cache: Path) -> None:
    """Write examples.png and examples.yaml."""
    packs = {pack: load_pack(pack, cache) for pack in STYLES.values()}
    rows: list[tuple[str, list[np.ndarray]]] = []
    for one in load_suite().objects:
        drawn = [icon(packs[pack], icon_in(one, pack), TILE) for pack in STYLES.values()]
        if len(rows) < CLASSES and all(picture is not None for picture in drawn):
            rows.append((one.name, [on_ground([picture]) for picture in drawn if picture is not None]))
    sheet = np.concatenate([np.concatenate(pictures, axis=1) for _, pictures in rows])
    classes = [name for name, _ in rows]
    seen = [style for style in STYLES if style not in UNSEEN]
    held = {name: seen[(i // 2) % len(seen)] for i, name in enumerate(classes) if i % 2}
    pairs = [f"{name}/{style}/*" for name in classes for style in seen if held.get(name) != style]
    random = np.random.default_rng(SEED).choice(len(pairs), len(pairs) // 10, replace=False)
    said = {
        "classes": classes, "styles": list(STYLES), "unseen": UNSEEN, "held": held, "sheet": "examples.png",
        "tile": TILE, "size": SIZE, "views": VIEWS, "seed": SEED,
        "forget": {**FORGET, "random": [pairs[i] for i in sorted(random)]},
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(out / "examples.png", optimize=True)
    (out / "examples.yaml").write_text(yaml.safe_dump(said, sort_keys=False, width=118, allow_unicode=True))
