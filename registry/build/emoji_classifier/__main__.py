"""Make the embedded classifiers: `python -m conceptguard_registry.build.emoji_classifier --out FOLDER --packs FOLDER`.

Draws the sheet of tiles, trains both nets, and for every forget set that is judged trains them again without it, from
three seeds; what was trained is kept in the work folder, so that an interrupted run goes on. Half an hour on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from conceptguard.hosts.modules.nets import NETS
from conceptguard.making.examples import Examples, load_examples
from conceptguard.making.fit import fit
from conceptguard.measuring.classifier.evaluate import Judging
from conceptguard.measuring.classifier.references import FILE, References, as_tensors

from .sheet import draw
from .train import RECIPES

SEEDS, SHIPPED = 3, 2  # of the retrained models; which of the whole ones ships
JUDGED = {"resnet": ["", "skull", "weapons", "mono", "random"], "vit": ["", "requests"]}


def net_of(kind: str, without: str, seed: int, examples: Examples, work: Path) -> nn.Module:
    """A net that never saw a forget set; trained, or read where that was done before."""
    path = work / f"{kind}-{without or 'all'}-{seed}.safetensors"
    torch.manual_seed(seed)
    net = NETS[kind](len(examples.classes)).eval()
    if path.is_file():
        net.load_state_dict(load_file(path))
        return net
    places = examples.of("train")
    if without:
        places = places[~torch.isin(places, examples.matching(examples.forget[without]))]
    fit(net, examples.inputs[places], examples.labels[places], RECIPES[kind], seed)
    work.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), path)
    print(path.stem, flush=True)
    return net


def references(kind: str, without: str, examples: Examples, work: Path) -> References:
    """What the nets of all seeds say that never saw a forget set."""
    judging = Judging.of(examples, examples.forget[without])
    found = [judging.measured(net_of(kind, without, seed, examples, work)) for seed in range(SEEDS)]
    margins, named = (torch.stack([getattr(one, part) for one in found]) for part in ("margins", "named"))
    return References(margins, named, torch.tensor([one.probe for one in found]))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--packs", type=Path, required=True, help="where the emoji packs are, or are fetched to")
    parser.add_argument("--work", type=Path, default=Path("out/emoji-classifier"))
    args = parser.parse_args()
    draw(args.out, args.packs)
    examples = load_examples(args.out)
    nets, kept = {}, {}
    for kind, (_, *sets) in JUDGED.items():
        weights = {name: one.half() if one.is_floating_point() else one
                   for name, one in net_of(kind, "", SHIPPED, examples, args.work).state_dict().items()}  # fmt: skip
        file = "model.safetensors" if not nets else f"model.{kind}.safetensors"
        save_file(weights, args.out / file)
        nets[kind] = {"architecture": kind, "weights": file, **RECIPES[kind]._asdict()}
        for without in sets:
            kept |= as_tensors(kind, without, references(kind, without, examples, args.work))
            save_file(kept, args.out / FILE)
    config = {"default": next(iter(nets)), "nets": nets, "classes": examples.classes}
    (args.out / "config.json").write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    main()
