"""Gates of many concepts at once: what they read, how often, and how well they tell texts apart."""

from __future__ import annotations

import re
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_sd
from torch import nn

from conceptguard import attach
from conceptguard.benchmarks.gates import captions_apart, measure, shipped, vocabulary, words_of
from conceptguard.errors import PolicyError
from conceptguard.hosts.diffusers.host import DiffusersHost
from conceptguard.measuring.suite import load_suite
from conceptguard.runtime import encodings
from conceptguard.runtime.calibration import WORDS, around, calibrate
from conceptguard.runtime.encodings import EncodingCache, content, encoding_cache_of, ordinary_captions
from conceptguard.runtime.gates import Gate, GateBank


class Counted:
    """How many texts went through a text encoder."""

    def __init__(self, encoder: nn.Module):
        self.texts = 0
        self.handle = encoder.register_forward_hook(self.count)

    def count(self, module: nn.Module, args: Any, output: Any) -> None:
        self.texts += len(output[0])


@pytest.fixture
def counted(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(encodings, "_of_weights", OrderedDict())  # no other test's encoder has read anything
    found = Counted(tiny.text_encoder)
    yield found
    found.handle.remove()


@pytest.fixture(scope="module")
def encode(pipe: Any) -> Any:
    """The embedded model's encoder, which reads the same batch of texts once."""
    host = DiffusersHost(pipe)
    read = cache(lambda *texts: host.encode(list(texts)))
    return lambda texts: read(*texts)


def policy(words: list[str]) -> dict[str, Any]:
    guards = [{"method": "sld", "concept": {"name": word, "prompts": [word]}} for word in words]
    return {"name": "many", "guards": guards}


def test_an_encoder_reads_a_concept_once(tiny: Any, counted: Counted) -> None:
    gates = [Gate((f"thing {i}",), floor=0.9, full=1.0) for i in range(40)]
    host = DiffusersHost(tiny)
    GateBank(gates, host.encode, host.encoding_cache())
    first, counted.texts = counted.texts, 0
    assert first >= 40 + len(ordinary_captions())
    GateBank(gates, DiffusersHost(tiny).encode, DiffusersHost(tiny).encoding_cache())
    assert counted.texts <= 2  # the probe


def test_what_was_read_holds_only_for_the_encoder_as_it_was(tiny: Any, counted: Counted) -> None:
    gates = [Gate(("a pistol",), floor=0.5, full=1.0)]
    host = DiffusersHost(tiny)
    before = GateBank(gates, host.encode, host.encoding_cache())
    with torch.no_grad():
        tiny.text_encoder.get_input_embeddings().weight.mul_(torch.linspace(-1, 2, 32))
    counted.texts = 0
    after = GateBank(gates, host.encode, host.encoding_cache())
    assert counted.texts > len(ordinary_captions())
    fresh = GateBank(gates, host.encode, EncodingCache())
    some = host.encode(["a man with a pistol", "a bowl of soup"])
    torch.testing.assert_close(after.similarity(some.embeds, [None] * 2), fresh.similarity(some.embeds, [None] * 2))
    assert not torch.allclose(after.similarity(some.embeds, [None] * 2), before.similarity(some.embeds, [None] * 2))


def test_the_same_model_loaded_again_reads_nothing_again(tiny: Any, tokenizer: Any, counted: Counted) -> None:
    gates = [Gate(("a pistol",), floor=0.5, full=1.0)]
    first = GateBank(gates, DiffusersHost(tiny).encode, DiffusersHost(tiny).encoding_cache())
    again = tiny_sd(tokenizer)
    found = Counted(again.text_encoder)
    second = GateBank(gates, DiffusersHost(again).encode, DiffusersHost(again).encoding_cache())
    assert found.texts <= 1  # the probe
    some = DiffusersHost(again).encode(["a man with a pistol", "a bowl of soup"])
    assert torch.equal(first.similarity(some.embeds, some.ids), second.similarity(some.embeds, some.ids))


def test_another_word_in_the_same_encoder_is_another_encoder(tiny: Any, tokenizer: Any, counted: Counted) -> None:
    """One token's vector is another one, as after textual inversion: nothing of the probe tells."""
    prompt = [Gate(("a pistol",), floor=0.5, full=1.0)]
    GateBank(prompt, DiffusersHost(tiny).encode, DiffusersHost(tiny).encoding_cache())
    other = tiny_sd(tokenizer)
    with torch.no_grad():
        other.text_encoder.get_input_embeddings().weight[tokenizer("pistol").input_ids[1]] += 1
    host = DiffusersHost(other)
    found = Counted(other.text_encoder)
    bank = GateBank(prompt, host.encode, host.encoding_cache())
    assert found.texts > len(ordinary_captions())
    asked = host.encode(["a pistol"])
    assert float(bank.similarity(asked.embeds, [None])) > 0.999


def test_a_text_that_the_tokenizer_now_cuts_otherwise_is_read_again(tiny: Any) -> None:
    host = DiffusersHost(tiny)
    known = host.encoding_cache()
    known.read(["a quiet zebra"], host.encode)
    cut = encoding_cache_of([tiny.text_encoder], "prompt", host.encode, lambda texts: [[1, 2, 3] for _ in texts])
    assert "a quiet zebra" not in cut.texts


def test_attaching_reads_no_concept_twice(tiny: Any, counted: Counted) -> None:
    words = [f"object number {i}" for i in range(10)]
    attach(tiny, policy(words)).detach()
    counted.texts = 0
    attach(tiny, policy(words)).detach()
    once = counted.texts
    assert once < len(ordinary_captions())


def test_only_a_texts_own_tokens_count(tiny: Any) -> None:
    """Where the text is known: the padding, which a causal encoder fills with the whole text, adds nothing."""
    host = DiffusersHost(tiny)
    bank = GateBank([Gate(("a pistol",))], host.encode)
    encoded = host.encode(["a bowl of soup"])
    padded = encoded.embeds.clone()
    padded[0, 1 + len(encoded.ids[0]) :] = host.encode(["a pistol"]).embeds[0, 2]
    assert torch.equal(bank.similarity(padded, encoded.ids), bank.similarity(encoded.embeds, encoded.ids))
    assert (bank.similarity(padded, [None]) > bank.similarity(encoded.embeds, [None])).all()


def test_a_row_gets_what_it_gets_alone(tiny: Any) -> None:
    host = DiffusersHost(tiny)
    bank = GateBank([Gate((w,), floor=0.1, full=0.9) for w in ("a pistol", "soup", "old bridge")], host.encode)
    texts = ["a bowl of soup", "", "two pistols on a bridge over a very long river"]
    many = host.encode(texts)
    together = bank(many.embeds, many.ids)
    for i in range(len(texts)):
        torch.testing.assert_close(bank(many.embeds[i : i + 1], many.ids[i : i + 1])[0], together[i])


def test_content_leaves_out_begin_end_and_padding(tiny: Any) -> None:
    encoded = DiffusersHost(tiny).encode(["a pistol", ""])
    assert [len(part) for part in content(encoded)] == [2, 1]


def test_captions_that_measure_are_not_those_that_calibrate() -> None:
    assert len(captions_apart()) >= 100 and not set(captions_apart()) & set(ordinary_captions())


def test_shipped_membranes_open_for_their_concept_and_for_nothing_else(encode: Any) -> None:
    """On the suite's judge prompts and captions kept apart, as `conceptguard bench gates` reports it."""
    import time

    subjects = shipped(load_suite("emoji-sd"))
    assert len(subjects) >= 10
    row = measure("shipped", subjects[:10], encode, 1, time.perf_counter)
    assert row["false_open"] <= 0.01 and row["missed_open"] <= 0.05
    assert row["missed_open_unread"] <= 0.05  # embeddings that were encoded before anything was attached
    assert row["kept"] > 1000 and row["own"] > 200


def test_embeddings_without_their_text_are_held_to_the_weakest_sight_of_the_concept(encode: Any) -> None:
    words = ("pistol", "gun")
    texts = ["a pistol, noto style", "mono style: someone with a gun"]
    measured = calibrate(words, encode, own=texts)
    bank = GateBank([Gate(words, 1.0, measured.floor, measured.full, measured.unread)], encode)
    encoded = encode(texts)
    assert (bank(encoded.embeds, [None, None]) == 1).all()
    assert (bank(encoded.embeds, encoded.ids) == 1).all()
    # With its text, a prompt is not held to that: what only resembles the concept stays shut.
    other = encode(["a quiet street in the morning"])
    assert (bank(other.embeds, other.ids) == 0).all()


def test_a_gate_without_that_measure_takes_all_embeddings_alike() -> None:
    assert Gate(("a",), floor=0.5, full=0.9).range_unread == (0.5, 0.9)
    assert Gate(("a",), floor=0.5, full=0.9, unread=0.95).range_unread == (0.5, 0.9)
    low, high = Gate(("a",), floor=0.5, full=0.9, unread=0.3).range_unread
    assert low < high == 0.3


def test_gates_of_words_that_nobody_calibrated_together(pipe: Any, encode: Any) -> None:
    import time

    subjects = vocabulary(words_of(pipe.tokenizer.get_vocab(), 30), encode)
    row = measure("vocabulary", subjects, encode, 1, time.perf_counter)
    assert row["n"] == 30 and row["false_open"] <= 0.01 and row["missed_open"] <= 0.05
    # A gate that never opened, or one that always did, would fail one of the two.
    shut = [s.__class__(Gate(s.gate.prompts, floor=2, full=3), s.own, s.kept) for s in subjects]
    assert measure("shut", shut, encode, 1, time.perf_counter)["missed_open"] == 1


def test_what_a_policy_preserves_leaves_a_gate_shut(pipe: Any) -> None:
    """Words alone open a gate at a few unrelated ones, too; a policy that says so shuts it there and nowhere else."""
    guard = {"method": "sld", "concept": {"name": "cigarette", "prompts": ["cigarette", "smoking"]}}
    asked, near = ["a drawing of a cigarette", "a man who is smoking"], "someone sketched a dog"

    def gates(**more: Any) -> list[float]:
        with attach(pipe, {"guards": [{**guard, **more}]}) as session:
            pipe([*asked, near], num_inference_steps=1, output_type="latent")
            return session.receipt.acts[0].gates[-3:]

    assert all(gate > 0 for gate in gates())
    assert gates(preserve=[near]) == [1, 1, 0]
    with pytest.raises(PolicyError, match="preserve 'a cigarette case' contains 'cigarette'"):
        gates(preserve=["a cigarette case"])


def test_what_surrounds_the_telling_word_of_a_phrase_opens_no_gate(encode: Any) -> None:
    """In phrases of several words the telling one must be there; where it is named otherwise, its name is enough."""
    words = ("cigarette", "someone smoking", "a rusty cigarette")
    beside = around(words)
    # No caption has either word of a phrase, so each is replaced; what still names the concept is left out.
    framed = [text for text in beside if re.fullmatch(r"someone \w+|\w+ smoking|a rusty \w+", text)]
    assert len(framed) == len(beside) == 3 * WORDS and not any("cigarette" in text for text in beside)
    measured = calibrate(words, encode)
    bank = GateBank([Gate(words, 1.0, measured.floor, measured.full, measured.unread)], encode)
    shut = encode(["someone sketched a dog in fluent style", "someone sketched a banana", "someone with a kite"])
    assert (bank(shut.embeds, shut.ids) == 0).all()
    opened = encode(["look, a cigarette right there", "someone in a hat is smoking"])
    assert (bank(opened.embeds, opened.ids) == 1).all()


def test_the_captions_ship(tmp_path: Path) -> None:
    import conceptguard

    folder = Path(conceptguard.__file__).parent
    assert {p.name for p in folder.rglob("captions*.txt")} == {"captions.txt", "captions_apart.txt"}


def test_gradients_pass_a_gate_that_is_neither_shut_nor_wide_open(tiny: Any) -> None:
    host = DiffusersHost(tiny)
    read = host.encode(["a pistol in a box"])
    for floor, full, passes in ((0.0, 3.0, True), (0.0, 0.001, False), (2.0, 3.0, False)):
        bank = GateBank([Gate(("a kitten",), floor=floor, full=full)], host.encode, host.encoding_cache())
        embeds = read.embeds.clone().requires_grad_()
        assert bank(embeds, read.ids).requires_grad is passes
