"""python -m conceptguard_registry.build.emoji_captioner: draw the sheet, train emoji-captioner, measure it, write its
card."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from conceptguard.measuring.captioner.words import load_words

from . import sheet, train

REGISTRY = Path(__file__).resolve().parents[2]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="conceptguard_registry.build.emoji_captioner", description=__doc__)
    parser.add_argument("--out", type=Path, default=REGISTRY / "models" / "emoji-captioner")
    parser.add_argument("--cache", type=Path, default=Path("out/emoji-packs"), help="folder for the downloaded packs")
    parser.add_argument("--sheet", type=Path, help="folder with the sheet; default: --out, drawn where it is not there")
    parser.add_argument("--minutes", type=float, default=train.Recipe.minutes, help="of CPU time")
    parser.add_argument("--clock", type=float, default=train.Recipe.clock, help="minutes by the clock, at most")
    parser.add_argument("--batch", type=int, default=train.Recipe.batch)
    parser.add_argument("--measure", action="store_true", help="only measure what is there, and write its card")
    args = parser.parse_args()
    folder = args.sheet or args.out
    if not (folder / "examples.yaml").exists():
        sheet.draw(folder, args.cache)
    if not args.measure:
        recipe = train.Recipe(args.minutes, args.clock, args.batch)
        train.train(load_words(), folder, recipe, args.out, REGISTRY / "models" / "emoji-encoder")
    if args.sheet is None:
        from . import measure

        print(json.dumps(measure.write_card(args.out, args.cache), indent=2))


if __name__ == "__main__":
    main()
