"""python -m conceptguard_registry.build.emoji_sd: rebuild emoji-sd and its judge from the emoji packs.

Every stage leaves its result in the working folder and is skipped when that is there; delete a file to redo a stage.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from diffusers import AutoencoderKL

from conceptguard.measuring.judge import Judge
from conceptguard.measuring.retrieval import RetrievalJudge

from . import (
    card,
    data,
    diffusion,
    export,
    judge,
    latents,
    measure,
    packs,
    processes,
    retrieval,
    text,
    tokenizer,
    vae,
)
from .suite import Suite, load_suite

STAGES = ("packs", "text", "vae", "latents", "diffusion", "export", "judge", "retrieval", "measure")
REGISTRY = Path(__file__).resolve().parents[2]


def run_text(suite: Suite, args: argparse.Namespace) -> None:
    vocabulary = tokenizer.write_tokenizer(args.work / "tokenizer")
    text.train_text(suite, vocabulary, text.TextRecipe(steps=args.text_steps), args.work)


def run_vae(suite: Suite, args: argparse.Namespace) -> None:
    folder = args.work / "vae"
    if folder.exists():
        return
    icons = packs.load_packs(args.cache)
    # Fewer views than the diffusion model gets: the autoencoder needs strokes and colours, not poses.
    views = data.draw_views(suite, icons, 6, seed=1)
    model = vae.train_vae(views.images, vae.VaeRecipe(steps=args.vae_steps), args.work)
    test = data.draw_views(suite, icons, 1, seed=2)
    print(f"PSNR on views that were not trained on: {vae.mean_psnr(model, test.images):.2f} dB")
    vae.standardise(model, views.images).save_pretrained(folder)


def run_latents(suite: Suite, args: argparse.Namespace) -> None:
    file = args.work / "latents.safetensors"
    if file.exists():
        return
    latents.write(file, args.work / "vae", suite, packs.load_packs(args.cache), args.views)


def run_diffusion(suite: Suite, args: argparse.Namespace) -> None:
    known = latents.read(args.work / "latents.safetensors", suite, args.views)
    recipe = diffusion.DiffusionRecipe(steps=args.steps)
    processes.side_by_side(diffusion.worker, (known, recipe, args.work), args.processes)


def run_export(suite: Suite, args: argparse.Namespace) -> None:
    folder = args.out / "emoji-sd"
    export.export(AutoencoderKL.from_pretrained(args.work / "vae"), args.work, folder)
    card.write_model_card(folder, len(suite.objects), len(suite.styles))


def run_judge(suite: Suite, args: argparse.Namespace) -> None:
    out = args.out / "emoji-judge"
    if not (out / "model.safetensors").exists():
        found = judge.train_judge(suite, packs.load_packs(args.cache), judge.JudgeRecipe(steps=args.judge_steps), out)
        card.write_judge_card(out, card.JUDGE, len(suite.objects), len(suite.styles), found)
        print(json.dumps(found, indent=2))


def run_retrieval(suite: Suite, args: argparse.Namespace) -> None:
    out = args.out / "emoji-retrieval"
    if not (out / "model.safetensors").exists():
        found = retrieval.make_retrieval(suite, packs.load_packs(args.cache), out)
        card.write_judge_card(out, card.RETRIEVAL, len(suite.objects), len(suite.styles), found)
        print(json.dumps(found, indent=2))


def run_measure(suite: Suite, args: argparse.Namespace) -> None:
    folder = args.out / "emoji-sd"
    pipe, first = export.load(folder), Judge.load(args.out / "emoji-judge")
    second = RetrievalJudge.load(args.out / "emoji-retrieval")
    found = measure.measure(suite, pipe, first, second, args.seed, args.rounds, args.guidance)
    for name, figures in found.items():
        print(f"{name}: {figures}", flush=True)
    views = data.draw_views(suite, packs.load_packs(args.cache), 1, seed=2)
    psnr = {"all": vae.mean_psnr(pipe.vae, views.images)}
    print(f"autoencoder: {psnr}")
    card.write_model_card(folder, len(suite.objects), len(suite.styles), found, psnr)
    if args.sheet:
        measure.contact_sheet(suite, pipe, args.guidance).save(args.sheet)


def main() -> None:
    parser = argparse.ArgumentParser(prog="conceptguard_registry.build.emoji_sd", description=__doc__)
    parser.add_argument("--stage", choices=STAGES, action="append", help="run only this stage; may be repeated")
    parser.add_argument(
        "--out", type=Path, default=REGISTRY / "models", help="folder that gets emoji-sd and emoji-judge"
    )
    parser.add_argument("--cache", type=Path, default=Path("out/emoji-packs"), help="folder for the downloaded packs")
    parser.add_argument("--work", type=Path, default=Path("out/emoji-sd"), help="folder for checkpoints")
    parser.add_argument("--views", type=int, default=24, help="views of each object in each style")
    parser.add_argument("--text-steps", type=int, default=text.TextRecipe.steps)
    parser.add_argument("--vae-steps", type=int, default=vae.VaeRecipe.steps)
    parser.add_argument(
        "--steps", type=int, default=diffusion.DiffusionRecipe.steps, help="diffusion steps, of batch 64"
    )
    parser.add_argument("--judge-steps", type=int, default=judge.JudgeRecipe.steps)
    parser.add_argument(
        "--processes", type=int, help="training processes (default: one per core, at most four; one on a GPU)"
    )
    parser.add_argument(
        "--rounds", type=int, default=2, help="samples of each held-out pair, in two wordings, when measuring"
    )
    parser.add_argument("--seed", type=int, default=500_000, help="of the first measured sample")
    parser.add_argument("--guidance", type=float, default=measure.GUIDANCE)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of 48 samples to this PNG")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    suite = load_suite()
    for stage in args.stage or STAGES:
        print(f"== {stage}", flush=True)
        if stage == "packs":
            packs.load_packs(args.cache)
        else:
            globals()[f"run_{stage}"](suite, args)


if __name__ == "__main__":
    main()
