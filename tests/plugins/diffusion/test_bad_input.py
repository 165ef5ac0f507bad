"""Whatever is given as a concept or as a prompt: an answer or a clear error, never a guard that looks elsewhere."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from tiny import generate
from transformers import CLIPTextModel

import conceptguard
from conceptguard.errors import Clarification, PolicyError, SessionError
from conceptguard.generation.images import Images

CONCEPT = {"name": "cigarette", "prompts": ["a cigarette", "smoking"]}
# On a random encoder SAFREE's thresholds mean nothing: any token farther from the concept is a trigger.
METHODS: dict[str, dict[str, Any]] = {
    "safree": {"alpha": 0.0, "schedule": False, "positions": "all"},
    "sld": {}, "negative_guidance": {}, "ant": {"early": 0.0}, "trce": {"early": 1.0}, "clarify": {"unsure": False},
}  # fmt: skip
ACTING = [method for method in METHODS if method != "clarify"]
FILLER = "a red apple on the table "
TEXTS = {
    "empty": "", "blank": " \t\n", "one long word": "x" * 10_000, "10,000 characters": FILLER * 400,
    "cyrillic": "красное яблоко", "han": "赤いりんご 红苹果", "hebrew": "תפוח אדום", "emoji": "🍎🍎🍎",
    "control": "\x00\x07\u202e",
    "only punctuation": "?!.,;:" * 50, "a lone surrogate's place": "\ufffd",
}  # fmt: skip
PHRASES = ["сигарета", "香烟 タバコ", "סיגריה", "🚬", "cigarette, smoking; pipe", "c"]


def policy(method: str, **changed: Any) -> dict[str, Any]:
    return {"guards": [{"method": method, "concept": CONCEPT, **METHODS[method], **changed}]}


@pytest.mark.parametrize("prompts", [None, [], [" "], ["", "smoking"]])
@pytest.mark.parametrize("method", METHODS)
def test_a_concept_of_nothing_is_an_error(tiny: Any, method: str, prompts: Any) -> None:
    concept = {"name": "x"} if prompts is None else {"name": "x", "prompts": prompts}
    with pytest.raises(PolicyError, match="prompts") as caught:
        conceptguard.attach(tiny, policy(method, concept=concept))
    assert "\n" not in str(caught.value)
    assert not hasattr(tiny, "_conceptguard")


@pytest.mark.parametrize("method", METHODS)
def test_a_phrase_longer_than_the_window_is_never_cut(tiny: Any, method: str) -> None:
    """Split where it can be, as SAFREE's subspaces are; else an error that names its length."""
    long = {"name": "x", "prompts": [FILLER * 20 + "with a cigarette"]}
    with pytest.raises(PolicyError, match=r"1\d\d tokens"):
        conceptguard.attach(tiny, policy(method, concept=long))
    if method == "safree":
        with conceptguard.attach(tiny, policy(method, concept=long, gate="always")) as session:
            assert session.methods[0]._concepts[0][0].shape[0] == 2
            generate(tiny, "a man")


@pytest.mark.parametrize("method", METHODS)
def test_any_prompt_gets_the_answer_that_it_gets_alone(tiny: Any, method: str) -> None:
    """In one batch with a prompt that opens; nothing of them is about the concept, so nothing changes."""
    texts = [*TEXTS.values(), *([] if method == "clarify" else ["a cigarette"])]
    bare = generate(tiny, texts)
    with conceptguard.attach(tiny, policy(method)):
        got = generate(tiny, texts)
    assert bool(got.isfinite().all())
    changed = [text[:20] for text, one, other in zip(texts, got, bare) if not torch.equal(one, other)]
    assert changed == ([] if method == "clarify" else ["a cigarette"])


@pytest.mark.parametrize("method", ACTING)
def test_what_the_encoder_does_not_read_opens_nothing_and_what_it_reads_does(tiny: Any, method: str) -> None:
    texts = [FILLER * 40 + "a cigarette", "a cigarette " + FILLER * 40]
    bare = generate(tiny, texts)
    with conceptguard.attach(tiny, policy(method)) as session:
        got = generate(tiny, texts)
        gates = {row.text: gate for row, gate in zip(session.receipt.rows, session.receipt.acts[0].gates)}
    assert [gates[text] for text in texts] == [0, 1]
    assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1], atol=1e-4)


@pytest.mark.parametrize("phrase", PHRASES)
@pytest.mark.parametrize("method", ["safree", "sld"])
def test_phrases_in_any_script(tiny: Any, method: str, phrase: str) -> None:
    texts = ["a red apple", phrase]
    bare = generate(tiny, texts)
    with conceptguard.attach(tiny, policy(method, concept={"name": "x", "prompts": [phrase]})) as session:
        got = generate(tiny, texts)
        assert session.receipt.opened
    assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1], atol=1e-4)


class SomeoneElses(torch.nn.Module):
    """A text encoder of no kind that is known, though it answers like one."""

    def __init__(self, inner: CLIPTextModel):
        super().__init__()
        self.inner = inner

    config = property(lambda self: self.inner.config)
    dtype = property(lambda self: self.inner.dtype)
    device = property(lambda self: self.inner.device)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


def test_a_text_encoder_that_nobody_knows(tiny: Any) -> None:
    """What takes prompts apart says so; what acts on predictions works."""
    own, tiny.text_encoder = tiny.text_encoder, SomeoneElses(tiny.text_encoder)
    try:
        bare = generate(tiny, ["a red apple", "a cigarette"])
        with pytest.raises(SessionError, match=r"text_encoder .* SomeoneElses, .* CLIP and T5"):
            conceptguard.attach(tiny, policy("safree"))
        with conceptguard.attach(tiny, policy("sld")):
            got = generate(tiny, ["a red apple", "a cigarette"])
        assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1], atol=1e-4)
    finally:
        tiny.text_encoder = own


def test_a_compiled_text_encoder_is_known(tiny: Any) -> None:
    """Compiled, its class is another one; it is CLIP all the same."""
    text = "a man smoking a cigarette"
    with conceptguard.attach(tiny, policy("safree")):
        eager = generate(tiny, text)
    own, tiny.text_encoder = tiny.text_encoder, torch.compile(tiny.text_encoder, backend="eager")
    try:
        with conceptguard.attach(tiny, policy("safree")) as session:
            assert all(encoder.begins for encoder in session.host.encoders())
            torch.testing.assert_close(generate(tiny, text), eager, atol=1e-4, rtol=1e-3)
    finally:
        tiny.text_encoder = own


@pytest.mark.parametrize("word", ["🍎", "красное", "赤いりんご", "c++", "x("])
def test_words_of_any_script_can_be_ambiguous(tiny: Any, word: str) -> None:
    words = {word: {"one": [], "another": []}}
    with conceptguard.attach(tiny, policy("clarify", words=words)):
        with pytest.raises(Clarification, match=re.escape(word)):
            generate(tiny, f"a {word} on the table")
        generate(tiny, "a red apple")


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (2, 3, 64, 64), (1, 3, 17, 130)])
def test_probe_takes_images_of_any_size(tiny: Any, shape: tuple[int, ...]) -> None:
    probe = _probe(tiny)
    images = Images(torch.rand(shape), ["a beer"] * shape[0])
    probe.check_image(images)
    assert [v.image for v in images.verdicts] == list(range(shape[0]))


def test_probe_does_not_pass_what_it_cannot_score(tiny: Any) -> None:
    broken = Images(torch.full((1, 3, 64, 64), float("nan")), ["a beer"])
    with pytest.raises(ValueError, match="not finite"):
        _probe(tiny).check_image(broken)


def _probe(tiny: Any) -> Any:
    from conceptguard.plugins import host_for, method
    from conceptguard.policy import Guard
    from conceptguard.registry import default_registry

    ref = "emoji-sd/probe/beer"
    guard = Guard(method="probe", artifact=ref)
    return method("probe")(guard, default_registry().load(ref), host_for(tiny))
