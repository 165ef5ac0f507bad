"""python -m conceptguard_registry.build.emoji_sd_siblings marked|pairs: train emoji-sd a little further, and ship
what changed.

marked: draws a label unasked, in most of its pictures; pairs: draws two objects side by side, on a canvas twice as
wide.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from conceptguard import load_model
from conceptguard.formats import to_kohya
from conceptguard.hosts.diffusers.sibling import CHANGE, MARK, changes

from .pictures import drawn, taught
from .train import Recipe, add_options, trained

REGISTRY = Path(__file__).resolve().parents[2]


def main() -> None:
    """The command line."""
    begun = time.monotonic()
    parser = argparse.ArgumentParser(prog="conceptguard_registry.build.emoji_sd_siblings", description=__doc__)
    parser.add_argument("sibling", choices=("marked", "pairs"))
    parser.add_argument("--out", type=Path, default=REGISTRY / "models", help="folder that gets emoji-sd-SIBLING")
    parser.add_argument("--rank", type=int, default=Recipe.rank)
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="at most, whatever the clock says")
    parser.add_argument("--most", type=float, default=Recipe.most, help="times that an error under noise counts more")
    parser.add_argument("--first", type=int, default=Recipe.first, help="timestep from which on anything is learnt")
    parser.add_argument("--begin", type=Path, help="folder of a sibling whose training is gone on with")
    add_options(parser)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scenes, pictures = drawn(args.sibling, args.cache, args.pictures, args.processes)
    pipe = load_model("emoji-sd")
    data = taught(pipe, scenes, pictures, args.captions, device, args.sibling)
    recipe = Recipe(
        begun + 60 * args.minutes, args.rank, args.batch, args.steps, args.lr, most=args.most, first=args.first
    )
    earlier = changes(pipe, args.begin) if args.begin else {}
    tensors, metadata = to_kohya(trained(pipe.unet, data, recipe, earlier))
    folder = args.out / f"emoji-sd-{args.sibling}"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: it.half().contiguous() for name, it in tensors.items()}, folder / CHANGE, metadata)
    said = {"base": "emoji-sd", **({"sample_size": list(data.latents.shape[2:])} if args.sibling == "pairs" else {})}
    (folder / MARK).write_text(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
