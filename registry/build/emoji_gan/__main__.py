"""Make emoji-gan: `python -m conceptguard_registry.build.emoji_gan`. Trains it on the emoji packs, minutes on a core;
has both judges read it, and writes its card. What it is trained on is drawn once, and kept in the work folder."""

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

from ..emoji_sd.suite import Suite, load_suite
from .tiles import VIEW, tiles
from .train import Recipe, train

MODELS = Path(__file__).resolve().parents[2] / "models"
# Those that ship: as many as one core learns in minutes. --all is for a GPU.
OBJECTS = ["cigarette", "pistol", "bomb", "beer", "wine", "skull", "knife", "syringe"]
SEED, READ = 84_000, 4  # of latents that are judged, and how many of each pair
CARD = """\
# emoji-gan

Draws one of {objects} of emoji-sd's objects in one of its {styles} styles, 64 x 64, in a single pass: the generator of
a class-conditional GAN with {million:.1f} M parameters. Seven normal numbers say how it is seen: where, how large, how
turned, and on which ground. Trained for minutes on one core, on renderings only: first to draw the view that its
latents describe, then against a discriminator as well. It is soft, and small: there to try methods on, not to look at.

What the judges read in {pictures} pictures, in whose making they had no part (`--measure`):

| object (emoji-judge) | style (emoji-judge) | object (emoji-retrieval) |
|---|---|---|
| {object:.1%} | {style:.1%} | {retrieved:.1%} |

Data and licences: see emoji-sd's card. `python -m conceptguard_registry.build.emoji_gan` makes one anew: this one was
trained eight minutes by the clock and with `--go-on` fifteen more, on a busy core. With `--all` it is of all objects of
the suite, which takes a GPU and a larger `--batch`, and was not tried.
"""


@torch.no_grad()
def measure(net: Generator, suite: Suite) -> dict[str, Any]:
    """Shares that both judges read rightly."""
    latents, objects, styles = net.asked(range(len(suite.objects)), READ, torch.Generator().manual_seed(SEED))
    drawn = torch.cat([net(*part) for part in zip(latents.split(64), objects.split(64), styles.split(64))])
    said, retrieved = (judge.judge(drawn) for judge in (Judge.load(MODELS / "emoji-judge"),
                                                        RetrievalJudge.load(MODELS / "emoji-retrieval")))  # fmt: skip
    names, looks = [one.name for one in suite.objects], list(suite.styles)

    def share(named: list[str], places: torch.Tensor, of: list[str]) -> float:
        return round(sum(a == of[i] for a, i in zip(named, places.tolist())) / len(named), 4)

    return {
        "pictures": len(drawn),
        "object": share(said.objects, objects, names),
        "style": share(said.styles, styles, looks),
        "retrieved": share(retrieved.objects, objects, names),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="conceptguard_registry.build.emoji_gan", description=__doc__)
    parser.add_argument("--out", type=Path, default=MODELS / "emoji-gan")
    parser.add_argument("--packs", type=Path, default=Path("out/emoji-packs"), help="folder for the downloaded packs")
    parser.add_argument("--work", type=Path, default=Path("out/emoji-gan"))
    parser.add_argument("--minutes", type=float, default=Recipe.minutes, help="by the clock")
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--all", action="store_true", help="all objects of the suite, not those that ship")
    parser.add_argument("--go-on", action="store_true", help="begin with the weights that are there")
    parser.add_argument("--measure", action="store_true", help="only measure what is there, and write its card")
    args = parser.parse_args()
    suite = load_suite()
    if not args.all:
        suite = suite.model_copy(update={"objects": [one for one in suite.objects if one.name in OBJECTS]})
    recipe = Recipe(minutes=args.minutes, batch=args.batch)
    names, styles = [one.name for one in suite.objects], list(suite.styles)
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.measure:
        sheet = tiles(suite, args.packs, args.work / "tiles.png")
        start = load_generator("emoji-gan", args.out, {}) if args.go_on else None
        net = train(sheet, recipe, torch.device("cuda" if torch.cuda.is_available() else "cpu"), start)
        weights = {key: one.half().contiguous() for key, one in net.state_dict().items()}
        save_file(weights, args.out / "model.safetensors")
        said = {"generator": {"latents": VIEW}, "objects": names, "styles": styles}
        (args.out / GENERATOR).write_text(json.dumps(said, indent=1) + "\n")
    net = load_generator("emoji-gan", args.out, {})
    found = measure(net, suite)
    million = sum(one.numel() for one in net.parameters()) / 1e6
    (args.out / "README.md").write_text(CARD.format(objects=len(names), styles=len(styles), million=million, **found))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
