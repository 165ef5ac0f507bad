"""python -m conceptguard_registry.build.emoji_flow: build emoji-flow out of emoji-sd's reading and its pictures.

emoji-sd comes first: its text encoder, tokenizer and autoencoder are what this one begins with. Every stage leaves its
result in the working folder and is skipped when that is there, or goes on where it was interrupted; delete a file to
redo a stage.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from conceptguard.measuring.judge import Judge
from conceptguard.measuring.retrieval import RetrievalJudge

from ..emoji_sd import data, latents, measure, packs, processes, scenes
from ..emoji_sd.suite import Suite, load_suite
from ..emoji_sd.vae import mean_psnr
from . import card, export, flow, vae

STAGES = ("packs", "vae", "latents", "flow", "export", "measure")
REGISTRY = Path(__file__).resolve().parents[2]


def icons_of(suite: Suite, args: argparse.Namespace) -> dict[str, dict]:
    """The packs that are drawn from; those that only the judge learns of stay where they are."""
    return {name: packs.load_pack(name, args.cache) for name in {style.pack for style in suite.styles.values()}}


def run_packs(suite: Suite, args: argparse.Namespace) -> None:
    icons_of(suite, args)


def run_vae(suite: Suite, args: argparse.Namespace) -> None:
    folder = args.work / "vae"
    if folder.exists():
        return
    icons = icons_of(suite, args)
    views = data.draw_views(suite, icons, 3, seed=1)
    theirs = AutoencoderKL.from_pretrained(args.start / "vae", torch_dtype=torch.float32)
    model = vae.standardise(vae.spread(theirs), views.images)
    test = data.draw_views(suite, icons, 1, seed=2).images[::4]
    own, before = mean_psnr(model, test), mean_psnr(theirs, test)
    print(f"PSNR on views that were not trained on: {own:.2f} dB, emoji-sd's own {before:.2f} dB")
    model.save_pretrained(folder)


def run_latents(suite: Suite, args: argparse.Namespace) -> None:
    file = args.work / "latents.safetensors"
    if file.exists():
        return
    latents.write(file, args.work / "vae", suite, icons_of(suite, args), args.views, args.two)


def run_flow(suite: Suite, args: argparse.Namespace) -> None:
    known = latents.read(args.work / "latents.safetensors", suite, args.views, args.two)
    recipe = flow.FlowRecipe(steps=args.steps, minutes=args.minutes, batch=args.batch)
    processes.side_by_side(flow.worker, (known, recipe, args.start, args.work), args.processes)


def run_export(suite: Suite, args: argparse.Namespace) -> None:
    autoencoder = AutoencoderKL.from_pretrained(args.work / "vae")
    export.export(autoencoder, args.work, args.start, args.out / "emoji-flow")
    card.write_card(args.out / "emoji-flow")


def run_measure(suite: Suite, args: argparse.Namespace) -> None:
    pipe, judge = export.load(args.out / "emoji-flow"), Judge.load(args.out / "emoji-judge")
    second = RetrievalJudge.load(args.out / "emoji-retrieval")
    found = measure.measure(suite, pipe, judge, second, args.seed, args.rounds, args.guidance)
    for name, figures in found.items():
        print(f"{name}: {figures}")
    card.write_card(args.out / "emoji-flow", found)
    if args.sheet:
        measure.contact_sheet(suite, pipe, args.guidance).save(args.sheet)


def main() -> None:
    parser = argparse.ArgumentParser(prog="conceptguard_registry.build.emoji_flow", description=__doc__)
    parser.add_argument("--stage", choices=STAGES, action="append", help="run only this stage; may be repeated")
    parser.add_argument("--out", type=Path, default=REGISTRY / "models", help="folder that gets emoji-flow")
    parser.add_argument(
        "--start",
        type=Path,
        default=REGISTRY / "models" / "emoji-sd",
        help="emoji-sd: the finished model, or its working folder with vae/, tokenizer/ and text.pt",
    )
    parser.add_argument("--cache", type=Path, default=Path("out/emoji-packs"), help="folder for the downloaded packs")
    parser.add_argument("--work", type=Path, default=Path("out/emoji-flow"), help="folder for checkpoints")
    parser.add_argument("--views", type=int, default=24, help="views of each object in each style")
    parser.add_argument("--two", type=float, default=scenes.TWO, help="share of views with a second object")
    parser.add_argument("--steps", type=int, default=flow.FlowRecipe.steps)
    parser.add_argument("--minutes", type=float, help="end the flow's training by the clock instead, pauses left out")
    parser.add_argument("--batch", type=int, default=flow.FlowRecipe.batch, help="pictures of a step, all processes'")
    parser.add_argument(
        "--processes", type=int, help="training processes (default: one per core, at most four; one on a GPU)"
    )
    parser.add_argument("--rounds", type=int, default=2, help="samples of each held-out pair, when measuring")
    parser.add_argument("--seed", type=int, default=500_000, help="of the first measured sample")
    parser.add_argument("--guidance", type=float, default=measure.GUIDANCE)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of 48 samples to this PNG")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    suite = load_suite()
    for stage in args.stage or STAGES:
        print(f"== {stage}", flush=True)
        globals()[f"run_{stage}"](suite, args)


if __name__ == "__main__":
    main()
