"""python -m conceptguard_registry.build.emoji_adapter: teach emoji-sd to be asked by a picture as well.

Every stage leaves its result in the working folder and is skipped when that is there; delete a folder to redo a stage.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from conceptguard import load_model

from ..emoji_encoder.teach import SIDE
from ..emoji_sd import packs
from ..emoji_sd.data import Views, in_parts
from ..emoji_sd.suite import Suite, load_suite
from ..emoji_sd.vae import to_input
from . import measure, reader, solved
from .wanted import States

MODELS = Path(__file__).resolve().parents[2] / "models"
# Of the pictures: far from those of the generator, the judges and what is planted.
SMALL, WHOLE = 96_000, 98_000
MATRIX = "projection.safetensors"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="conceptguard_registry.build.emoji_adapter", description=__doc__)
    parser.add_argument("--out", type=Path, default=MODELS / "emoji-adapter")
    parser.add_argument("--cache", type=Path, default=Path("out/emoji-packs"), help="folder for the downloaded packs")
    parser.add_argument("--work", type=Path, default=Path("out/emoji-adapter"), help="folder for what stages leave")
    parser.add_argument("--pictures", type=int, default=1536, help="whose states the layers are solved by")
    parser.add_argument("--steps", type=int, default=100, help="for each layer")
    parser.add_argument("--measure", action="store_true", help="only measure what is there, and write its card")
    args = parser.parse_args()
    if not args.measure:
        suite, pipe = load_suite(), load_model("emoji-sd")
        whole = _views(suite, args.cache, 6, WHOLE, 128)
        _read(suite, pipe, whole, args)
        _solve(pipe, whole, args)
    measure.write_card(args.out)


def _views(suite: Suite, cache: Path, count: int, seed: int, side: int) -> Views:
    """So many renderings of one thing each, of every pair of object and style that is not held out."""
    icons = {name: packs.load_pack(name, cache) for name in sorted({it.pack for it in suite.styles.values()})}
    (found,) = in_parts(suite, icons, count, seed, side, part=10**9, two=0.0)
    return found


def _read(suite: Suite, pipe: Any, whole: Views, args: argparse.Namespace) -> None:
    first, then = args.work / "named", args.work / "told"
    if (then / MATRIX).exists():
        return
    small = _views(suite, args.cache, 12, SMALL, SIDE)
    images = _channels_first(small.images)
    if not first.exists():
        tower = _tower(MODELS / "emoji-encoder")
        reader.name(tower, suite, small.scenes, images)
        tower.save_pretrained(first)
    tower = _tower(first)
    more = [reader.stored(part) for part in _channels_first(whole.images).split(512)]
    projection = reader.tell(
        tower, States(pipe), suite, [*small.scenes, *whole.scenes], torch.cat([images, *more]).contiguous()
    )
    tower.save_pretrained(then)
    save_file({"matrix": projection.matrix.weight.contiguous()}, then / MATRIX)


@torch.no_grad()
def _solve(pipe: Any, whole: Views, args: argparse.Namespace) -> None:
    states, tower = States(pipe), _tower(args.work / "told")
    projection = reader.Projection(tower.config.projection_dim, states)
    projection.matrix.weight.copy_(load_file(args.work / "told" / MATRIX)["matrix"])
    every = torch.randperm(len(whole.scenes), generator=torch.Generator().manual_seed(0))
    chosen = every[: args.pictures].tolist()
    scenes, images = [whole.scenes[i] for i in chosen], _channels_first(whole.images[chosen])
    texts = torch.cat([states.tokens(scenes[at : at + 256])[1].half() for at in range(0, len(scenes), 256)])
    tokens = torch.stack([states.gain * projection(reader.read(tower, images, soft)) + states.bias
                          for soft in (False, True)])  # fmt: skip
    pixels = torch.from_numpy(whole.images[chosen]).split(64)
    latents = torch.cat([pipe.vae.encode(to_input(part)).latent_dist.mean for part in pixels])
    seen = solved.recorded(pipe.unet, latents * pipe.vae.config.scaling_factor, texts, states.nothing, WHOLE)
    tensors, begin = projection.tensors(states), solved.begun(pipe.unet, states)
    for number, layer in solved.layers_of(pipe.unet).items():
        with torch.enable_grad():
            keys, values, left = solved.solved(layer, seen[number], tokens, begin[number], states, args.steps)
        print(f"layer {number}: {left:.3f} of what it is to add is left unsaid", flush=True)
        tensors |= {f"ip_adapter.{number}.to_k_ip.weight": keys, f"ip_adapter.{number}.to_v_ip.weight": values}
    args.out.mkdir(parents=True, exist_ok=True)
    halves = {name: it.half().contiguous() for name, it in tensors.items()}
    save_file(halves, args.out / "ip_adapter.safetensors", {"format": "pt"})
    reader.as_clip_reads(tower)
    tower.half().save_pretrained(args.out / "image_encoder")


def _tower(folder: Path) -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection.from_pretrained(folder, dtype=torch.float32).eval()


def _channels_first(images: Any) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


if __name__ == "__main__":
    main()
