"""What gates cost, and how well they tell one text from another, on texts that calibrated none of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..generation.conditioning import Encoded, stack
from ..measuring.suite import Suite, erased, neighbours, others
from ..registry import default_registry
from ..runtime.calibration import MARGIN, between
from ..runtime.encodings import Encode, EncodingCache, ordinary_captions
from ..runtime.gates import Gate, GateBank

Row = dict[str, Any]
Clock = Callable[[], float]

# Wordings in which no maker and no calibration sees a concept.
APART = ("close view, {}, evening light", "an oil painting where one {} stands in the middle", "two of these: {}")
ROWS = 8  # prompts encoded at once when timing


def captions_apart() -> list[str]:
    """Everyday captions that no gate is calibrated on."""
    return (Path(__file__).parent / "captions_apart.txt").read_text(encoding="utf-8").split("\n")[:-1]


@dataclass
class Subject:
    """A concept with its gate. own: texts that must open it; kept: texts that must not."""

    gate: Gate
    own: Sequence[str]
    kept: Sequence[str]


def measure(name: str, subjects: Sequence[Subject], encode: Encode, repeats: int, clock: Clock) -> Row:
    """One row: all ``subjects`` in one policy.

    false_open: share of (kept text, concept) pairs in which the gate opens; any_open: share of captions kept apart
    that open any gate at all; missed_open: share of own texts that leave their concept's gate shut; ``_unread``: the
    same where only embeddings are known. gates_ms: all gates, per prompt, once embeddings are there.
    """
    known = EncodingCache()
    gates = [s.gate for s in subjects]
    begin = clock()
    bank = GateBank(gates, encode, known)
    reading = clock() - begin
    begin = clock()
    GateBank(gates, encode, known)
    again = clock() - begin
    texts = list(dict.fromkeys(t for s in subjects for t in [*s.own, *s.kept]))
    at = {text: i for i, text in enumerate(texts)}
    encoded = encode_all(texts, encode)
    read, unread = bank(encoded.embeds, encoded.ids) > 0, bank(encoded.embeds, [None] * len(texts)) > 0
    false = torch.cat([_column(read, at, s.kept, i) for i, s in enumerate(subjects)])
    false_unread = torch.cat([_column(unread, at, s.kept, i) for i, s in enumerate(subjects)])
    own = torch.cat([_column(read, at, s.own, i) for i, s in enumerate(subjects)])
    own_unread = torch.cat([_column(unread, at, s.own, i) for i, s in enumerate(subjects)])
    plain = [c for c in captions_apart() if all(not _names(s.gate, c) for s in subjects)]
    captions = encode_all(plain, encode)
    some = captions.embeds[:ROWS], captions.ids[:ROWS]
    return {
        "set": name,
        "n": len(subjects),
        "prompts": sum(len(g.prompts) for g in gates),
        "gates_ms": round(1000 * _median(lambda: bank(*some), repeats, clock) / ROWS, 4),
        "false_open": _share(false),
        "any_open": _share((bank(captions.embeds, captions.ids) > 0).any(1)),
        "missed_open": _share(~own),
        "false_open_unread": _share(false_unread),
        "missed_open_unread": _share(~own_unread),
        "kept": len(false),
        "own": len(own),
        "encode_seconds": round(reading, 3),
        "encode_again_seconds": round(again, 3),
    }


def shipped(suite: Suite) -> list[Subject]:
    """Every membrane of an object in the registry, with its calibrated gate. Own texts are the suite's judge prompts
    of the concept, kept ones those of everything else and the captions kept apart."""
    found = []
    for entry in default_registry().entries():
        family, method, concept = entry.ref.split("/")
        if (family, method) != (suite.base, "spm") or suite.is_style(concept) or not suite.known([concept]):
            continue
        manifest = default_registry().load(entry.ref).manifest
        measured = manifest.gate or {}
        gate = Gate(tuple(manifest.concept.prompts), 1.0, measured["floor"], measured["full"], measured.get("unread"))
        far = [s.prompt for s in others(suite, 60, without=[concept])] + captions_apart()
        near = [s.prompt for s in neighbours(suite, concept, 40)]
        kept = [text for text in dict.fromkeys([*near, *far]) if not _names(gate, text)]
        found.append(Subject(gate, list(dict.fromkeys(s.prompt for s in erased(suite, concept, 40))), kept))
    return found


def vocabulary(words: Sequence[str], encode: Encode) -> list[Subject]:
    """A concept for each word, all calibrated at once on ordinary captions."""
    prompts = [(word, f"someone with a {word}") for word in words]
    bank = GateBank([Gate(p) for p in prompts], encode)
    captions = encode_all(ordinary_captions(), encode)
    shut = _best(bank, captions.embeds, captions.ids)
    own = encode_all([text for texts in prompts for text in texts], encode)
    seen = _best(bank, own.embeds, [None] * len(own.ids))
    found = []
    for i, texts in enumerate(prompts):
        unread = float(seen[2 * i : 2 * i + 2, i].min())
        floor, full = between(float(shut[:, i].max()), unread)
        paraphrases = [template.format(texts[0]) for template in APART]
        found.append(Subject(Gate(texts, 1.0, floor, full, unread - MARGIN), paraphrases, captions_apart()))
    return found


def words_of(vocab: dict[str, int], n: int) -> list[str]:
    """The ``n`` most frequent longer words of a byte-pair vocabulary that no caption here contains."""
    used = {word for caption in [*ordinary_captions(), *captions_apart()] for word in caption.split()}
    return list(_long_words(vocab, used))[:n]


def _long_words(vocab: dict[str, int], used: set[str]) -> Iterator[str]:
    for token in sorted(vocab, key=vocab.__getitem__):
        word = token.removesuffix("</w>")
        if word != token and len(word) > 6 and word.isascii() and word.isalpha() and word not in used:
            yield word


def encode_all(texts: Sequence[str], encode: Encode) -> Encoded:
    """Any number of texts."""
    return stack(*(encode(list(texts[i : i + 64])) for i in range(0, len(texts), 64)))


def _names(gate: Gate, text: str) -> bool:
    return any(prompt.lower() in text.lower() for prompt in gate.prompts)


def _best(bank: GateBank, embeds: Tensor, ids: Sequence[Any]) -> Tensor:
    """Similarity to the nearest prompt of each concept, [texts, concepts]; here every concept has two."""
    return bank.similarity(embeds, ids).unflatten(1, (-1, 2)).amax(2)


def _column(opened: Tensor, at: dict[str, int], texts: Sequence[str], concept: int) -> Tensor:
    return opened[[at[text] for text in texts], concept]


def _share(hits: Tensor) -> float:
    return round(float(hits.float().mean()), 4)


def _median(run: Callable[[], Any], repeats: int, clock: Clock) -> float:
    times = []
    for _ in range(repeats + 1):
        begin = clock()
        run()
        times.append(clock() - begin)
    return statistics.median(times[1:])
