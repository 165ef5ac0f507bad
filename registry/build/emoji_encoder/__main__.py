"""python -m conceptguard_registry.build.emoji_encoder: train emoji-encoder on the emoji packs, measure it, write its
card."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from transformers import CLIPTokenizer

from conceptguard.files.atomic import sha256_file
from conceptguard.hosts.transformers.image_text import load_image_text

from ..emoji_sd import packs
from ..emoji_sd.suite import load_suite
from .measure import measure
from .teach import Recipe, teach

REGISTRY = Path(__file__).resolve().parents[2]
CARD = """\
# emoji-encoder

Reads pictures and texts of the emoji world into one space, as CLIP does: transformers' `CLIPModel` with 0.6 M
parameters for pictures of 48 px and 0.5 M for texts of at most 32 tokens. It names what `conceptguard find` discovers;
any CLIP or SigLIP in a folder takes its place.

It was trained in {minutes:g} minutes of CPU time on renderings only, with other seeds and views than emoji-sd's, and
never on anything generated. It judges no guard. On single objects, named by the nearest of all {objects} names:

| renderings that it was not trained on | object | style |
|---|---|---|
| other views of pairs of object and style | {object:.1%} | {style:.1%} |
| pairs that were held out | {object_held_out:.1%} | {style_held_out:.1%} |

Data and licences: see emoji-sd's card. `python -m conceptguard_registry.build.emoji_encoder` makes it anew.
"""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="conceptguard_registry.build.emoji_encoder", description=__doc__)
    parser.add_argument("--out", type=Path, default=REGISTRY / "models" / "emoji-encoder")
    parser.add_argument("--cache", type=Path, default=Path("out/emoji-packs"), help="folder for the downloaded packs")
    parser.add_argument("--minutes", type=float, default=Recipe.minutes, help="of CPU time")
    parser.add_argument("--measure", action="store_true", help="only measure what is there, and write its card")
    args = parser.parse_args()
    suite, recipe = load_suite(), Recipe(minutes=args.minutes)
    icons = {name: packs.load_pack(name, args.cache) for name in sorted({it.pack for it in suite.styles.values()})}
    if not args.measure:
        words = CLIPTokenizer.from_pretrained(REGISTRY / "models" / "emoji-sd" / "tokenizer")
        teach(suite, icons, words, recipe, args.out)
    found = measure(suite, icons, load_image_text(args.out))
    told = CARD.format(minutes=recipe.minutes, objects=len(suite.objects), **found)
    (args.out / "README.md").write_text(told)
    marks = {
        one.name: sha256_file(one)
        for one in sorted(args.out.iterdir())
        if one.suffix in (".json", ".safetensors", ".txt")
    }
    print(json.dumps({**found, "pinned": marks}, indent=2))


if __name__ == "__main__":
    main()
