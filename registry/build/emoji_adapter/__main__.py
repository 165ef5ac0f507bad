"""python -m conceptguard_registry.build.emoji_adapter: train emoji-sd to be asked by a picture as well."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionModelWithProjection

from conceptguard import load_model

from ..emoji_sd.text import encode
from ..emoji_sd_siblings.pictures import drawn, taught
from ..emoji_sd_siblings.train import Recipe, add_options
from .adapter import seen, trained

REGISTRY = Path(__file__).resolve().parents[2]


def main() -> None:
    """The command line."""
    begun = time.monotonic()
    parser = argparse.ArgumentParser(prog="conceptguard_registry.build.emoji_adapter", description=__doc__)
    parser.add_argument("--out", type=Path, default=REGISTRY / "models", help="folder that gets emoji-adapter")
    parser.add_argument("--most", type=float, default=15.0, help="times that an error under noise counts more")
    add_options(parser)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scenes, pictures = drawn("plain", args.cache, args.pictures, args.processes)
    pipe = load_model("emoji-sd")
    data = taught(pipe, scenes, pictures, args.captions, device)
    encoder = CLIPVisionModelWithProjection.from_pretrained(REGISTRY / "models" / "emoji-encoder", dtype=torch.float32)
    embeds = seen(encoder.to(device), pictures, device)
    with torch.no_grad():
        nothing = pipe.text_encoder(encode(pipe.tokenizer, [""]).to(device)).last_hidden_state
    recipe = Recipe(begun + 60 * args.minutes, batch=args.batch, lr=args.lr, most=args.most)
    tensors = trained(pipe.unet, data, embeds, nothing, recipe)
    folder = args.out / "emoji-adapter"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "ip_adapter.safetensors", {"format": "pt"})


if __name__ == "__main__":
    main()
