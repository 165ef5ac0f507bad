"""What a bank of phrases costs a token, beside ``NoBadWordsLogitsProcessor`` on the same words and texts.

A vocabulary of real words (those of the embedded model's CLIP tokenizer), a byte-level BPE of 32,000 tokens trained on
them, phrases of one to three of these words, and texts in which phrases begin all the time.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from itertools import accumulate
from statistics import mean, median
from typing import Any

import torch

from ..hosts.transformers.logits import logits_processor
from ..hosts.transformers.random_models import byte_level_bpe, llama, no_bad_words

VOCABULARY = 32_000
PROMPT = 8  # tokens
TURNS = 3  # texts that each reads
SAID, SPREAD = 14.0, 2.0  # the score of a text's next token, and the spread of all others around 0


@cache
def words() -> list[str]:
    """English words and names, the frequent ones first."""
    from ..hosts.load import load_model

    vocabulary = load_model("emoji-sd").tokenizer.get_vocab()
    found = [token.removesuffix("</w>") for token in sorted(vocabulary, key=vocabulary.__getitem__)
             if token.endswith("</w>") and len(token) > 6]  # fmt: skip
    return [word for word in found if word.isascii() and word.isalpha()]


@cache
def tokenizer() -> Any:
    """A byte-level BPE, as of GPT-2 and Llama 3, of ``VOCABULARY`` tokens."""
    return byte_level_bpe([f" {word} {word.title()}" for word in words()], VOCABULARY)


def phrases(count: int, seed: int = 0) -> list[str]:
    """``count`` different phrases: a rare word in twenty, pairs and triples of words for the rest."""
    chance, vocabulary = random.Random(seed), words()
    rare = vocabulary[len(vocabulary) // 2 :]
    found: dict[str, None] = {}
    while len(found) < count:
        kind = chance.random()
        size = 1 if kind < 0.05 else 2 if kind < 0.7 else 3
        found[" ".join(chance.choice(rare if size == 1 else vocabulary) for _ in range(size))] = None
    return list(found)


def texts(rows: int, tokens: int, guarded: list[str], seed: int = 1) -> torch.Tensor:
    """Ids [rows, tokens] of texts of words, as often as their rank has it, and one time in four of a phrase but for its
    last word.

    What one cannot say under the guard, a phrase of one word or a token that is one, is in none of them.
    """
    chance, tok, vocabulary = random.Random(seed), tokenizer(), words()
    single = [f" {phrase}" for phrase in guarded if " " not in phrase]
    closed = {i for phrase in single for i in tok(phrase, add_special_tokens=False).input_ids}
    often = list(accumulate(1 / rank for rank in range(1, len(vocabulary) + 1)))
    found = []
    for _ in range(rows):
        said: list[int] = []
        while len(said) < tokens:
            begun = chance.choice(guarded).rsplit(" ", 1)
            part = chance.choices(vocabulary, cum_weights=often)[0]
            if len(begun) > 1 and chance.random() < 0.25:
                part = begun[0]
            ids = tok(f" {part}", add_special_tokens=False).input_ids
            said += [] if closed & set(ids) else ids
        found.append(said[:tokens])
    return torch.tensor(found)


def speaker(size: str = "tiny") -> Any:
    """A Llama with random weights and this vocabulary: ``tiny``, for its processors alone, or ``1b`` in bfloat16."""
    return llama(tokenizer(), size)


def policy(guarded: list[str]) -> dict[str, Any]:
    """One bank of phrases."""
    return {"guards": [{"method": "phrases", "concept": {"name": "bench", "prompts": guarded}}]}


def bank(model: Any, tok: Any, guarded: list[str]) -> Any:
    """Our processor; what it says of half words is not what is timed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return logits_processor(model, tok, policy(guarded))[0]


def tokens_of(tok: Any, guarded: list[str]) -> list[list[int]]:
    """Phrases as they are said after another word."""
    return tok([f" {phrase}" for phrase in guarded], add_special_tokens=False).input_ids  # type: ignore[no-any-return]


def least(ids: list[list[int]]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A processor that reads the last tokens, closes those that are whole phrases, and does nothing else: what any of
    them costs in Python."""
    whole = torch.tensor(sorted({phrase[0] for phrase in ids if len(phrase) == 1}), dtype=torch.long)

    def processor(said: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        said[:, -1].tolist()
        return scores.index_fill_(1, whole, -math.inf)

    return processor


def per_token(count: int, batches: list[int], tokens: int, clock: Callable[[], float]) -> Iterator[dict[str, Any]]:
    """Rows with what ``count`` phrases cost a token in batches of these sizes, ours and the peer's in turn.

    Each reads a whole text by itself, as a generation does; ours has read none of them before. What a model leaves of
    the processor's caches between two tokens is no part of it: for that see ``share``.

    Scores are what a language model's are like: the next token of the text stands out, most others are far below.
    start: seconds from phrases to a processor that has answered once; ms: a median, so that what others do on the
    machine counts little; ms_mean: with everything
    ms_floor: of a processor that does as good as nothing, see ``least``
    """
    guarded, tok, model = phrases(count), tokenizer(), speaker()
    first, scores = texts(1, PROMPT, guarded), torch.zeros(1, len(tok))
    begin = clock()
    ids = tokens_of(tok, guarded)
    peer = no_bad_words(tok, ids)
    peer(first, scores.clone())
    middle = clock()
    ours = bank(model, tok, guarded)
    ours(first, scores.clone())
    starts = {"ours": clock() - middle, "peer": middle - begin}
    floor = least(ids)
    for rows in batches:
        noise = torch.randn(rows, len(tok), generator=torch.Generator().manual_seed(rows)) * SPREAD
        taken: dict[str, list[float]] = {"ours": [], "peer": [], "floor": []}
        for turn in range(TURNS):
            said = texts(rows, PROMPT + tokens, guarded, seed=1 + turn)
            for name, processor in (("peer", peer), ("ours", ours), ("floor", floor)):
                for at in range(PROMPT, PROMPT + tokens):
                    given = noise.clone().scatter_(1, said[:, at : at + 1], SAID)
                    start = clock()
                    processor(said[:, :at], given)
                    if at > PROMPT:  # the first is what a generation begins with
                        taken[name].append(clock() - start)
        mine, theirs = taken["ours"], taken["peer"]
        yield {
            "phrases": count, "batch": rows, "ms": 1e3 * median(mine), "ms_peer": 1e3 * median(theirs),
            "ms_floor": 1e3 * median(taken["floor"]), "ratio_peer": median(mine) / median(theirs),
            "ms_mean": 1e3 * mean(mine), "ms_peer_mean": 1e3 * mean(theirs),
            "start_seconds": starts["ours"], "start_seconds_peer": starts["peer"], "peer": "NoBadWords",
        }  # fmt: skip


def share(model: Any, tok: Any, count: int, tokens: int, batch: int, clock: Callable[[], float]) -> dict[str, Any]:
    """What part of ``generate`` is a processor's, its own time over all of it, in one greedy generation each.

    share, share_peer, share_floor: ours, NoBadWords', and that of ``least``; ratio_peer: our time over NoBadWords';
    ms, ms_generate: what a token takes with ours
    """
    guarded = phrases(count)
    given = tok(["The history of the"] * batch, return_tensors="pt", return_token_type_ids=False)

    def spent(processor: Any) -> tuple[float, float]:
        inside: list[float] = []

        def timed(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            start = clock()
            out: torch.Tensor = processor(ids, scores)
            inside.append(clock() - start)
            return out

        for said in (2, tokens):  # the first to warm up
            inside.clear()
            start = clock()
            model.generate(**given, max_new_tokens=said, min_new_tokens=said, do_sample=False, logits_processor=[timed])
        return sum(inside), clock() - start

    ours = bank(model, tok, guarded)
    ids = tokens_of(tok, guarded)
    processors = {"share": ours, "share_peer": no_bad_words(tok, ids), "share_floor": least(ids)}
    found = {name: spent(processor) for name, processor in processors.items()}
    mine, whole = found["share"]
    shares = {name: inside / all_ for name, (inside, all_) in found.items()}
    return {
        "phrases": count, "batch": batch, **shares, "ratio_peer": mine / found["share_peer"][0], "peer": "NoBadWords",
        "ms": 1e3 * mine / tokens, "ms_generate": 1e3 * whole / tokens,
    }  # fmt: skip
