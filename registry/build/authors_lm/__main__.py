"""python -m conceptguard_registry.build.authors_lm: rebuild authors-lm and authors-lm-retain from nothing.

Every stage leaves its result and is skipped when that is there; delete it to redo a stage. Training that was
interrupted goes on from its last checkpoint in the working folder.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch

from conceptguard.measuring.language.suite import load_language_suite
from conceptguard.registry import rebuild_index

from . import export, guards, measure, tokenizer, train, world

STAGES = ("world", "tokenizer", "train", "measure", "guards")
REGISTRY = Path(__file__).resolve().parents[2]
SUITE = REGISTRY / "suites" / "authors-lm"


def run_world(args: argparse.Namespace) -> None:
    if not (SUITE / "world.yaml").exists():
        world.write_world(SUITE)


def run_tokenizer(args: argparse.Namespace) -> None:
    folder = args.work / "tokenizer"
    if not folder.exists():
        tokenizer.train_tokenizer(load_language_suite(SUITE).without("forget")).save_pretrained(folder)


def run_train(args: argparse.Namespace) -> None:
    suite, vocabulary = load_language_suite(SUITE), tokenizer.load_tokenizer(args.work / "tokenizer")
    # Nothing is learned twice: both models go on from a trunk that never saw the forget set either.
    trunk = train.train(suite.without("forget"), vocabulary, train.Recipe(), args.work / "trunk")
    for name, reads in ((suite.forms.base, suite), (suite.forms.retain, suite.without("forget"))):
        if not (args.out / name / "model.safetensors").exists():
            model = train.train(reads, vocabulary, train.GOES_ON, args.work / name, copy.deepcopy(trunk))
            export.export(model, vocabulary, args.out / name)


def run_measure(args: argparse.Namespace) -> None:
    measure.write_cards(load_language_suite(SUITE), args.out)


def run_guards(args: argparse.Namespace) -> None:
    suite, registry = load_language_suite(SUITE), args.out.parent
    print(guards.make_guard(suite, registry))
    print(guards.make_inside(suite, registry))
    guards.write_policies(suite, registry)
    rebuild_index(registry)


def main() -> None:
    parser = argparse.ArgumentParser(prog="conceptguard_registry.build.authors_lm", description=__doc__)
    parser.add_argument("--stage", choices=STAGES, action="append", help="run only this stage; may be repeated")
    parser.add_argument("--out", type=Path, default=REGISTRY / "models", help="folder that gets both models")
    parser.add_argument("--work", type=Path, default=Path("out/authors-lm"), help="folder for checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for stage in args.stage or STAGES:
        print(f"== {stage}", flush=True)
        globals()[f"run_{stage}"](args)


if __name__ == "__main__":
    main()
