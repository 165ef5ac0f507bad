"""Make emoji-gan: `python -m conceptguard_registry.build.emoji_gan`. Trains it on the emoji packs, five minutes on a
GPU; has both judges read it, and writes its card. What it is trained on is drawn once, and kept in the work folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from conceptguard.hosts.modules.generator import Generator
from conceptguard.hosts.modules.load import GENERATOR, load_generator
from conceptguard.measuring.judge import Judge
from conceptguard.measuring.retrieval import RetrievalJudge

from ..emoji_sd.suite import Suite, load_suite, pairs
from .tiles import VIEW, tiles
from .train import Recipe, train

MODELS = Path(__file__).resolve().parents[2] / "models"
SEED, READ = 84_000, 4  # of latents that are judged, and how many of each pair
CARD = """\
# emoji-gan

Draws one of emoji-sd's {objects} objects in one of its {styles} styles, 64 x 64, in a single pass: the generator of a
class-conditional GAN with {million:.1f} M parameters. Seven normal numbers say how it is seen: where, how large, how
turned, and on which ground. Trained for {minutes:g} minutes on a GPU, on renderings only: first to draw the view that
its latents describe, then against a discriminator as well. `python -m conceptguard_registry.build.emoji_gan` makes it
anew.

What the judges read in {pictures} pictures, which they had no part in making (`--measure`):

| pairs of object and style | object (emoji-judge) | style (emoji-judge) | object (emoji-retrieval) |
|---|---|---|---|
| trained | {object:.1%} | {style:.1%} | {retrieved:.1%} |
| held out | {held_object:.1%} | {held_style:.1%} | {held_retrieved:.1%} |

Data and licences: see emoji-sd's card. It draws nothing but emoji.
"""


@torch.no_grad()
def measure(net: Generator, suite: Suite) -> dict[str, Any]:
    """Shares that both judges read rightly, of pairs that it was trained on, and after ``held_`` of the others."""
    latents, objects, styles = net.asked(range(len(suite.objects)), READ, torch.Generator().manual_seed(SEED))
    drawn = torch.cat([net(*part) for part in zip(latents.split(64), objects.split(64), styles.split(64))])
    judge, other = Judge.load(MODELS / "emoji-judge"), RetrievalJudge.load(MODELS / "emoji-retrieval")
    names = [one.name for one in suite.objects]
    said, retrieved = judge.judge(drawn), other.judge(drawn)
    held = {(one.name, style) for one, style in pairs(suite, held_out=True)}
    asked_for = [(names[i], list(suite.styles)[j]) for i, j in zip(objects.tolist(), styles.tolist())]
    found: dict[str, Any] = {"pictures": len(drawn)}
    for mark, some in (
        ("", [i for i, one in enumerate(asked_for) if one not in held]),
        ("held_", [i for i, one in enumerate(asked_for) if one in held]),
    ):
        heads = {"object": (said.objects, 0), "style": (said.styles, 1), "retrieved": (retrieved.objects, 0)}
        for head, (named, axis) in heads.items():
            found[f"{mark}{head}"] = round(sum(named[i] == asked_for[i][axis] for i in some) / len(some), 4)
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="conceptguard_registry.build.emoji_gan", description=__doc__)
    parser.add_argument("--out", type=Path, default=MODELS / "emoji-gan")
    parser.add_argument("--packs", type=Path, default=Path("out/emoji-packs"), help="folder for the downloaded packs")
    parser.add_argument("--work", type=Path, default=Path("out/emoji-gan"))
    parser.add_argument("--minutes", type=float, default=Recipe.minutes, help="by the clock")
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--measure", action="store_true", help="only measure what is there, and write its card")
    args = parser.parse_args()
    suite, recipe = load_suite(), Recipe(minutes=args.minutes, batch=args.batch)
    names, styles = [one.name for one in suite.objects], list(suite.styles)
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.measure:
        sheet = tiles(suite, args.packs, args.work / "tiles.png")
        shown = pairs(suite, held_out=False)
        trained = torch.tensor([[names.index(one.name), styles.index(style)] for one, style in shown])
        net = train(sheet, trained, recipe, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        weights = {key: one.half().contiguous() for key, one in net.state_dict().items()}
        save_file(weights, args.out / "model.safetensors")
        said = {"generator": {"latents": VIEW}, "objects": names, "styles": styles, "minutes": recipe.minutes}
        (args.out / GENERATOR).write_text(json.dumps(said, indent=1) + "\n")
    minutes = json.loads((args.out / GENERATOR).read_text())["minutes"]
    net = load_generator("emoji-gan", args.out, {})
    found = measure(net, suite)
    million = sum(one.numel() for one in net.parameters()) / 1e6
    (args.out / "README.md").write_text(
        CARD.format(objects=len(names), styles=len(styles), minutes=minutes, million=million, **found)
    )
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
