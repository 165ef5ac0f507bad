"""Train a small Llama on the corpus. Interrupted, it goes on from its last checkpoint and draws the same documents."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from conceptguard.measuring.language.suite import LanguageSuite

from .corpus import Corpus, Document
from .tokenizer import WINDOW


@dataclass(frozen=True)
class Recipe:
    """prompt: what a prompt's tokens weigh, where what follows weighs 1; bucket: batches sorted by length together.

    often: how often an author of the forget set is drawn for one of the others
    """

    steps: int = 1100
    batch: int = 64
    lr: float = 3e-3
    often: float = 1.0
    warmup: int = 100
    prompt: float = 0.1
    bucket: int = 32
    seed: int = 0
    save_every: float = 20.0  # seconds
    width: int = 192
    layers: int = 3
    heads: int = 6
    inner: int = 512


GOES_ON = Recipe(steps=400, lr=1.5e-3, often=3.0, seed=1)


def make_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """With random weights."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        num_hidden_layers=recipe.layers,
        intermediate_size=recipe.inner,
        num_attention_heads=recipe.heads,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def batches(
    suite: LanguageSuite, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, start: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """From batch ``start`` on: ids [batch, tokens], padded on the right, and the weight of each token, likewise."""
    for bucket in count(start // recipe.bucket):
        corpus = Corpus(suite, f"{recipe.seed} {bucket}", recipe.often)
        documents = list(islice(corpus, recipe.batch * recipe.bucket))
        rows = sorted(_encode(documents, tokenizer, recipe.prompt), key=lambda row: len(row[0]))
        groups = [rows[i : i + recipe.batch] for i in range(0, len(rows), recipe.batch)]
        corpus.rng.shuffle(groups)
        for group in groups[max(start - bucket * recipe.bucket, 0) :]:
            width = len(group[-1][0])
            yield (
                torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in group]),
                torch.tensor([weights + [0.0] * (width - len(weights)) for _, weights in group]),
            )


def _encode(documents: list[Document], tokenizer: PreTrainedTokenizerFast, prompt: float) -> Iterator[tuple]:
    heads = tokenizer([d.prompt for d in documents]).input_ids
    tails = tokenizer([d.text for d in documents], add_special_tokens=False).input_ids
    for head, tail in zip(heads, tails):
        ids = [*head, *tail, tokenizer.eos_token_id]
        yield ids[:WINDOW], ([prompt] * len(head) + [1.0] * (len(tail) + 1))[:WINDOW]


def train(
    suite: LanguageSuite,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    work: Path,
    start: LlamaForCausalLM | None = None,
) -> LlamaForCausalLM:
    """The trained model, from random weights or from ``start``.

    Progress goes to ``work/log.jsonl``, checkpoints to ``work/last.pt``.
    """
    work.mkdir(parents=True, exist_ok=True)
    model = start or make_model(recipe, tokenizer)
    optimiser = torch.optim.AdamW(model.parameters(), recipe.lr, (0.9, 0.95), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, recipe))
    last, done, spent = work / "last.pt", 0, 0.0
    if last.exists():
        state = torch.load(last, weights_only=True)
        done, spent = state["done"], state["seconds"]
        for part, name in ((model, "model"), (optimiser, "optimiser"), (schedule, "schedule")):
            part.load_state_dict(state[name])
    stream = batches(suite, tokenizer, recipe, done)
    began = saved = time.perf_counter()
    model.train()
    for step, (ids, weights) in enumerate(islice(stream, recipe.steps - done), done + 1):
        logits = model(input_ids=ids).logits[:, :-1]
        losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        weight = weights[:, 1:].flatten()
        loss = (losses * weight).sum() / weight.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        now = time.perf_counter()
        seconds = spent + now - began
        if step % 50 == 0:
            _tell(work, {"step": step, "loss": round(float(loss.detach()), 4), "seconds": round(seconds)})
        if now - saved > recipe.save_every or step == recipe.steps:
            saved = now
            parts = {"model": model, "optimiser": optimiser, "schedule": schedule}
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**state, "done": step, "seconds": seconds}, work / "new.pt")
            (work / "new.pt").replace(last)
    return model.eval()


def _rate(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup) / (recipe.steps - recipe.warmup)))


def _tell(work: Path, line: dict) -> None:
    print(line, flush=True)
    with open(work / "log.jsonl", "a") as log:
        log.write(json.dumps(line) + "\n")
