"""Whether a bottleneck's concepts look at the right pixels, by how often two concepts occur together.

Pictures of two things on a ground, put together of what emoji-sd draws: in some share of them the first thing comes
with the second. Concepts' maps are learnt from which things a picture shows alone (the maps of `csr`), and judged on
other pictures, in which the two never meet: the share of a map that lies on its thing, whether its peak does, and
whether the picture's label is right; beside it the same of maps learnt from labels in another order.

    python -m tools.pixels --json FILE
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from conceptguard_plugins.finding.csr import learnt

import conceptguard
from conceptguard.finder import PictureSet
from conceptguard.finding.checks import split
from conceptguard.finding.crops import read
from conceptguard.finding.encoders import load_encoder
from conceptguard.finding.judged import area
from conceptguard.finding.pixels import looked
from conceptguard.finding.planted import MARK, OBJECTS, SEEDS, SIDE, SPRITE, STYLES, Scene, compose, drawn_alone

from .rows import parser_of, write_rows

PAIR, OTHERS = OBJECTS[:2], OBJECTS[2:]
LEARN, TELL = 48, 48
RATES = (0.0, 0.5, 0.9, 1.0)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=25, help="of everything that is drawn")
    asked = parser.parse_args()
    pipe: Any = conceptguard.load_model("emoji-sd")
    pipe.set_progress_bar_config(disable=True)
    write_rows("pixels", rows(drawn_alone(pipe, SEEDS["judge"], asked.steps)), asked.json)


def rows(sprites: Any) -> Iterator[dict[str, Any]]:
    """One for each rate, and a control for each."""
    encoder = load_encoder()
    told, labels, masks = _pictures(sprites, 0.0, TELL, 1)
    seen = read(told, encoder, 0.375, 0.34)
    for rate in RATES:
        taught, known, _ = _pictures(sprites, rate, LEARN, 2)
        crops = read(taught, encoder, 0.375, 0.34)
        centre = crops.rows.flatten(0, 1).mean(0)
        mixed = known[torch.randperm(LEARN, generator=torch.Generator().manual_seed(3))]
        for kind, given in (("labels", known), ("control", mixed)):
            model = learnt(F.normalize(crops.rows - centre, dim=2), given.float(), 2, 0)
            maps = model.maps(F.normalize(seen.rows - centre, dim=2)).amax(3)
            found = []
            for k, name in enumerate(PAIR):
                values = maps[:, k] - maps[:, k].median()
                scores = maps[:, k].amax(1)
                right = float(((scores > split(scores)) == labels[:, k]).float().mean())
                found.append([*looked(seen.maps(values.clamp(min=0)), masks[name]), area(scores, labels[:, k]), right])
            mean = torch.tensor(found).mean(0).tolist()
            keys = ("inside", "pointing", "by_chance", "area", "accuracy")
            yield {"kind": kind, "together": rate, **{key: round(value, 3) for key, value in zip(keys, mean)}}


def _pictures(sprites: Any, rate: float, count: int, seed: int) -> tuple[PictureSet, Any, dict[str, Any]]:
    """Half of them show one of the pair, or both, where the other one comes with it."""
    random = torch.Generator().manual_seed(seed)

    def number(below: int) -> int:
        return int(torch.randint(below, (), generator=random))

    made = []
    for i in range(count):
        if i % 2:
            names = [OTHERS[number(len(OTHERS))], OTHERS[number(len(OTHERS))]]
        elif float(torch.rand((), generator=random)) < rate:
            names = list(PAIR)
        else:
            names = [PAIR[i // 2 % 2], OTHERS[number(len(OTHERS))]]
        names = names[:: 1 if number(2) else -1] if names[0] != names[1] else names[:1]
        style = STYLES[number(2)]
        objects = tuple(
            (
                name,
                number(len(sprites[name, style])),
                at * SIDE // 2 + number(3),
                MARK // 2 + number(SIDE - SPRITE - MARK),
            )
            for at, name in enumerate(names)
        )
        made.append(compose(Scene(objects, style, False, None), sprites))
    nothing = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    masks = {name: torch.stack([where.get(name, nothing) for _, where in made]) for name in PAIR}
    labels = torch.stack([masks[name].flatten(1).any(1) for name in PAIR], 1)
    pixels = torch.stack([(one.clamp(0, 1) * 255).round().byte() for one, _ in made])
    return PictureSet(pixels, [f"{i}" for i in range(count)], [""] * count), labels, masks


if __name__ == "__main__":
    main()
