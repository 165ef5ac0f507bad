"""CRAFT's published code as a peer: the same activations factorised, and their concepts weighed, by it and by ours.

    CRAFT_PATH=FOLDER python -m tools.craft_peer --json FILE

FOLDER is where it was installed by itself: ``pip install --no-deps --target FOLDER craft-xai``; it also needs the
scikit-learn that comes with the extra ``test``. Its module for torch imports TensorFlow, which it then does not use: an
empty module stands in for it.
"""

from __future__ import annotations

import os
import sys
import time
import types
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from conceptguard_plugins.finding.dictionaries import halves, whole
from conceptguard_plugins.finding.found import Seen, parts, see
from conceptguard_plugins.finding.importance import sobol
from conceptguard_plugins.finding.lens import extract
from torch import Tensor

from conceptguard import load_model
from conceptguard.finder import Search
from conceptguard.finding.encoders import load_encoder
from conceptguard.finding.planted import plant
from conceptguard.plugins import offers

from .rows import parser_of, write_rows

SIZES, CONCEPTS, ROUNDS = (48, 480, 1440), 20, 3


def ours(seen: Seen) -> tuple[Tensor, Tensor]:
    """Amounts of crops and directions, after the concepts are weighed."""
    amounts, directions = extract(seen, "nmf", CONCEPTS)
    sobol(parts(seen, amounts, directions), 0)
    return amounts, halves(directions)


@cache
def published() -> Any:
    """Its class."""
    sys.modules["tensorflow"] = types.ModuleType("tensorflow")
    try:
        from craft.craft_torch import Craft
    finally:
        del sys.modules["tensorflow"]  # others ask whether it is there
    return Craft


def theirs(seen: Seen) -> tuple[Tensor, Tensor]:
    """The same of the published code; a class's logit is what decides, as it wants it."""
    from sklearn.decomposition import NMF

    assert seen.decides.weights is not None
    weights, centre = seen.decides.weights, seen.rows.mean(0)
    craft = published()(lambda x: x, lambda given: whole(given) @ weights.T, CONCEPTS, 64, device="cpu")
    craft.reducer = NMF(n_components=CONCEPTS)  # what its ``fit`` does with the activations
    amounts = craft.reducer.fit_transform(halves(seen.rows - centre).numpy())
    craft.W = craft.reducer.components_.astype("float32")
    pictures = halves(seen.by_picture(seen.rows - centre).mean(1))
    encode = craft.transform
    craft.transform = lambda given: encode(None, activations=given)
    with torch.no_grad():
        craft.estimate_importance(pictures, 0)
    return torch.from_numpy(amounts), torch.from_numpy(craft.W)


def measured() -> Iterator[dict[str, Any]]:
    """A row for each number of pictures. seconds: processor time of one thread, the least of the rounds; error: what is
    left of the activations, relative; ratio_peer: our time over the peer's"""
    pipe, encoder, finder = load_model("emoji-sd"), load_encoder(), offers("finders")["craft"]
    for count in SIZES:
        pictures = plant(pipe, count, "tune", 10).pictures
        seen = see(Search(None, None, finder.FindSettings(), 0, "craft", False, pictures, encoder, []))
        given = halves(seen.rows - seen.rows.mean(0))
        found: dict[str, tuple[float, float]] = {}
        for _ in range(ROUNDS):
            for name, side in (("ours", ours), ("craft-xai", theirs)):
                began = time.process_time()
                amounts, directions = side(seen)
                spent = time.process_time() - began
                error = float((given - amounts @ directions).norm() / given.norm())
                found[name] = min(found.get(name, (spent, error)), (spent, error))
        yield {
            "pictures": count, "crops": len(seen.rows), "seconds": round(found["ours"][0], 3),
            "seconds_peer": round(found["craft-xai"][0], 3), "error": round(found["ours"][1], 4),
            "error_peer": round(found["craft-xai"][1], 4),
            "ratio_peer": round(found["ours"][0] / found["craft-xai"][0], 4),
        }  # fmt: skip


def main() -> None:
    given = parser_of(__doc__).parse_args()
    if not (place := os.environ.get("CRAFT_PATH")):
        raise SystemExit("CRAFT_PATH is not set: say where craft-xai was installed, see python -m tools.craft_peer -h")
    sys.path.append(place)
    warnings.filterwarnings("ignore", module="sklearn")  # that its 200 rounds are too few
    torch.set_num_threads(1)
    write_rows("craft-peer", measured(), given.json)


if __name__ == "__main__":
    main()
