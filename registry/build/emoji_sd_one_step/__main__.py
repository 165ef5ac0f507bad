"""python -m conceptguard_registry.build.emoji_sd_one_step: distil emoji-sd into a generator of one step.

It takes emoji-sd itself and captions, and no pictures. What the first two stages leave in the working folder is not
made again; delete a file to redo a stage.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file

from ..emoji_sd import export as emoji_sd
from . import distil, export, measure, prompts

STAGES = ("captions", "distil", "export", "measure")
REGISTRY = Path(__file__).resolve().parents[2]


def run_captions(args: argparse.Namespace) -> None:
    pipe = emoji_sd.load(args.teacher)
    prompts.token_ids(pipe.tokenizer, args.captions, args.work, args.objects, args.styles)


def run_distil(args: argparse.Namespace) -> None:
    file = args.work / "generator.safetensors"
    if file.exists():
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    pipe = emoji_sd.load(args.teacher).to(device)
    if device.type == "cpu":
        pipe.unet.set_attn_processor(AttnProcessor())  # see emoji-sd's own training
    ids = prompts.token_ids(pipe.tokenizer, args.captions, args.work, args.objects, args.styles)
    context = prompts.read(pipe.text_encoder, ids)
    empty = prompts.read(pipe.text_encoder, prompts.encode(pipe.tokenizer, [""]))[0]
    recipe = distil.Recipe(minutes=args.minutes, batch=args.batch, rank=args.rank)
    matched, found = distil.Distilling(pipe.unet, context, empty, recipe).run()
    save_file(matched, args.work / "matched.safetensors")
    save_file(found, file)


def run_export(args: argparse.Namespace) -> None:
    export.export(load_file(args.work / "generator.safetensors"), args.teacher, args.out / "emoji-sd-one-step")


def run_measure(args: argparse.Namespace) -> None:
    own = {"minutes": distil.Recipe.minutes, "batch": distil.Recipe.batch, "rank": distil.Recipe.rank, "rounds": 1}
    said = [f"--{name} {','.join(value)}" for name in ("objects", "styles") if (value := getattr(args, name))]
    said += [f"--{name} {value:g}" for name, usual in own.items() if (value := getattr(args, name)) != usual]
    measure.measure(args.out, args.rounds, args.sheet, args.objects, args.styles, " ".join(said))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="conceptguard_registry.build.emoji_sd_one_step", description=__doc__)
    parser.add_argument("--stage", choices=STAGES, action="append", help="run only this stage; may be repeated")
    parser.add_argument("--out", type=Path, default=REGISTRY / "models", help="folder that gets emoji-sd-one-step")
    parser.add_argument("--teacher", type=Path, default=REGISTRY / "models" / "emoji-sd", help="emoji-sd's folder")
    parser.add_argument("--work", type=Path, default=Path("out/emoji-sd-one-step"), help="folder for what stages leave")
    parser.add_argument("--captions", type=int, default=24_000, help="how many captions it is taught with")
    parser.add_argument("--objects", type=_names, default=(), metavar="A,B", help="these alone; default: all")
    parser.add_argument("--styles", type=_names, default=(), metavar="A,B", help="in these styles alone; default: all")
    parser.add_argument("--minutes", type=float, default=distil.Recipe.minutes, help="of distilling, by the clock")
    parser.add_argument("--batch", type=int, default=distil.Recipe.batch)
    parser.add_argument("--rank", type=int, default=distil.Recipe.rank, help="of the change that is kept")
    parser.add_argument("--rounds", type=int, default=1, help="samples of each pair, when measuring")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of 48 samples to this PNG")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for stage in args.stage or STAGES:
        print(f"== {stage}", flush=True)
        globals()[f"run_{stage}"](args)


if __name__ == "__main__":
    main()
