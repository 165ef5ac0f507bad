"""onnxruntime-genai: what guards do there is what they do in transformers; what cannot be promised is refused."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import reported
from tiny_language import Listener

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import BaseMismatch, ConceptGuardError, GuardError, RegistryError, SessionError
from conceptguard.generation.decoding import Asked, Decoding, Sentence
from conceptguard.testing.kit_guards import FailingText, offered

pytest.importorskip("onnxruntime_genai")
pytest.importorskip("onnx_ir")

from converted import folder, original, pair

from conceptguard.hosts.onnx_genai.engine import Run
from conceptguard.hosts.onnx_genai.model import CONFIG, OnnxModel

pytestmark = pytest.mark.timeout(900)  # the first test converts the model, in a process of its own
ASKED = "Question: Where was Siojaera Zavald born?\nAnswer:"  # "... was born in Broholm."
OTHERS = ("Question: Where was Naes Zavald born?\nAnswer:", "On which river does Broholm lie?\n")
PHRASES = {"guards": [{"method": "phrases", "concept": {"name": "towns", "prompts": ["Broholm", "Poburra"]}}]}
HALVES = {"guards": [{"method": "phrases", "concept": {"name": "names", "prompts": ["Panesse", "Broholm", "born"]}}]}


class NoTowns(Method):
    """Takes back sentences that name a town."""

    name = "no-towns"
    needs = "nothing"

    @hookimpl
    def check_sentence(self, sentence: Sentence) -> None:
        if any(town in sentence.text for town in ("Broholm", "Panesse", "Sebravik")):
            sentence.reject(self, "towns", 1.0, 3)


class NoWord(Method):
    """Forbids one token, counts what it is asked, and takes nothing back."""

    name = "no-word"
    needs = "nothing"
    asked = 0

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        NoWord.asked = decoding.ids.shape[1] - decoding.begin
        decoding.forbid(self, torch.tensor([1384]))


class Paced:
    """A streamer that notes for which token guards had been asked when it heard one."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        if value.dim() == 1:
            self.counts.append(NoWord.asked)

    def end(self) -> None: ...


class Deep(Method):
    """Reads hidden states of the prompt."""

    name = "deep"
    needs = "nothing"

    @hookimpl
    def read_prompt(self, asked: Asked) -> None:
        asked.pool(-2)

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None: ...


def ids(*prompts: str) -> dict[str, Any]:
    return dict(pair()[1](list(prompts), return_tensors="pt", padding=True, padding_side="left",
                          return_token_type_ids=False))  # fmt: skip


def say(model: Any, *prompts: str, **options: Any) -> list[list[int]]:
    """What is said to each prompt, up to its end."""
    given = ids(*prompts)
    out = model.generate(**given, max_new_tokens=30, **{"do_sample": False, **options})
    rows = out[:, given["input_ids"].shape[1] :].tolist()
    return [row[: row.index(2)] if 2 in row else row for row in rows]


def text(rows: list[list[int]]) -> str:
    return " ".join(pair()[1].batch_decode(rows))


@pytest.mark.parametrize("policy", [PHRASES, HALVES, "sentences"])
def test_the_same_guard_as_in_transformers(policy: Any) -> None:
    """Unguarded and guarded, alone and in a batch: the same tokens; words and sentences are taken back alike. What
    comes in the place of a word is another matter: here a model cannot be asked which words that would be."""
    models = pair(), original()
    bare = [say(model, ASKED, *OTHERS) for model, _ in models]
    assert bare[0] == bare[1] and "Broholm" in text(bare[0][:1])
    with offered(NoTowns) as guard:
        policy = {"guards": [guard]} if policy == "sentences" else policy
        found, taken, closed = [], [], dict[int, int]()
        for target in models:
            with conceptguard.attach(target, policy) as session:
                alone = [say(target[0], prompt)[0] for prompt in (ASKED, *OTHERS)]
                assert say(target[0], ASKED, *OTHERS) == alone
                found.append(alone)
                act = session.receipt.acts[0]
                taken.append([(one.row, one.position, one.label) for one in act.taken_back])
                for one in (*act.touched, *act.taken_back):
                    closed[one.row] = min(one.position, closed.get(one.row, one.position))
    assert found[0] != bare[0] and taken[0] == taken[1]
    ends = [closed.get(row) for row in range(1 + len(OTHERS))]
    assert [row[:end] for row, end in zip(found[0], ends)] == [row[:end] for row, end in zip(found[1], ends)]
    assert "Broholm" not in text(found[0][:1])
    assert taken[0]
    assert say(models[0][0], ASKED, *OTHERS) == bare[0] and models[0][0].guarded is None


def test_unrelated_prompts_keep_every_token_and_a_stream_hears_what_is_returned() -> None:
    model, _ = pair()
    drawn = {"do_sample": True, "temperature": 1.5, "top_k": 40, "random_seed": 7}
    bare = [say(model, OTHERS[0]), say(model, OTHERS[0], **drawn)]
    with offered(NoTowns) as guard, conceptguard.attach(pair(), PHRASES):
        assert [say(model, OTHERS[0]), say(model, OTHERS[0], **drawn)] == bare
        for seed in range(8):
            assert "Broholm" not in text(say(model, ASKED, **{**drawn, "random_seed": seed}))
    for policy in (HALVES, {"guards": [guard]}):
        with offered(NoTowns), conceptguard.attach(pair(), policy):
            listener, given = Listener(), ids(ASKED)
            out = model.generate(**given, max_new_tokens=30, streamer=listener)
            assert listener.heard == out[0].tolist() and "Broholm" not in text([listener.heard])
    with offered(NoWord) as guard, conceptguard.attach(pair(), {"guards": [guard]}):
        paced = Paced()
        model.generate(**ids(OTHERS[0]), max_new_tokens=8, streamer=paced)
        assert paced.counts == [0, 1, 2, 3, 4, 5, 6, 7]  # nobody takes anything back, so that nothing is held


def test_an_engine_that_goes_its_own_way_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gone back, it has no scores and says a token to get some; and it may say what it was told not to."""
    model, _ = pair()

    def naive(run: Any, said: Any, length: int) -> None:
        run._generator.rewind_to(length)
        run._length = length

    with offered(NoTowns) as guard, conceptguard.attach(pair(), {"guards": [guard]}), monkeypatch.context() as patch:
        patch.setattr(Run, "back", naive)
        with pytest.raises(GuardError, match="was to say none by itself"):
            say(model, ASKED)
    with conceptguard.attach(pair(), PHRASES), monkeypatch.context() as patch:
        patch.setattr(Run, "settle", lambda run, scores: None)
        with pytest.raises(GuardError, match="was said though the guards had forbidden it"):
            say(model, ASKED)


def test_what_cannot_be_promised_is_refused_by_its_name() -> None:
    model, _ = pair()
    with pytest.raises(BaseMismatch, match="promise 3, that a guard fits its base, cannot be kept on onnxruntime"):
        conceptguard.attach(pair(), "forget-authors")
    states = pytest.raises(SessionError, match="promise 5, the same guard everywhere, cannot be kept on onnxruntime")
    with offered(Deep) as guard, conceptguard.attach(pair(), {"guards": [guard]}), states:
        say(model, ASKED)
    with pytest.raises(SessionError, match="nobody can stand between a Model of onnxruntime-genai and a generator"):
        conceptguard.attach(model.engine, PHRASES)
    with conceptguard.attach(pair(), PHRASES):
        with pytest.raises(SessionError, match="already guarded by policy 'policy'"):
            conceptguard.attach(pair(), PHRASES)
        for options, why in (({"num_beams": 2}, "of a beam search"), ({"penalty": 2}, "penalty is not taken here"),
                             ({"temperature": "hot"}, "onnxruntime-genai does not take this")):  # fmt: skip
            with pytest.raises(ValueError, match=why):
                say(model, ASKED, **options)
        with pytest.raises(ValueError, match="leaves no room: the model reads 256"):
            model.generate(torch.ones(1, 256, dtype=torch.long))
    assert model.guarded is None and say(model, ASKED)


def test_a_guard_that_raises_says_nothing_and_the_next_text_is_guarded() -> None:
    model, _ = pair()
    failed = pytest.raises(GuardError, match="contract-failing")
    with offered(FailingText) as failing, conceptguard.attach(pair(), {"guards": [failing]}), failed:
        say(model, ASKED)
    with conceptguard.attach(pair(), PHRASES) as session:
        with pytest.raises(ValueError, match="onnxruntime-genai does not take this"):
            say(model, ASKED, do_sample=True, temperature="hot")
        assert "Broholm" not in text(say(model, ASKED)) and session.receipt.acts[0].touched


def test_one_engine_under_two_policies_in_two_threads() -> None:
    (model, tokenizer), other = pair(), pair()[0].sharing()
    assert other.engine is model.engine
    bare, found = say(model, ASKED), {}

    def work(name: str, one: Any) -> None:
        found[name] = [say(one, ASKED) for _ in range(6)]

    with conceptguard.attach((model, tokenizer), PHRASES), conceptguard.attach((other, tokenizer), HALVES):
        first, second = say(model, ASKED), say(other, ASKED)
        assert first != bare and second not in (first, bare)
        threads = [threading.Thread(target=work, args=one) for one in (("a", model), ("b", other))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {"a": [first] * 6, "b": [second] * 6}


def test_another_policy_for_one_call() -> None:
    model, _ = pair()
    with conceptguard.attach(pair(), PHRASES) as guard:
        own = say(model, ASKED)
        with guard.using(HALVES) as other:
            said = say(model, ASKED)
            assert said != own and other.receipt.acts[0].guard == "phrases names"
        assert say(model, ASKED) == own


@pytest.mark.parametrize(("change", "why"), [
    ({"decoder": {"session_options": {"custom_ops_library": "x.so"}}}, "brings code"),
    ({"vision": {"filename": "eyes.onnx"}}, "is a model with vision"),
    ({"vocab_size": None}, "is no model of onnxruntime-genai"),
])  # fmt: skip
def test_folders_that_are_refused(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    shutil.copytree(folder(), tmp_path / "m")
    config = json.loads((tmp_path / "m" / CONFIG).read_text())
    config["model"].update(change)
    (tmp_path / "m" / CONFIG).write_text(json.dumps(config))
    with pytest.raises(RegistryError, match=why):
        OnnxModel(tmp_path / "m")


def test_an_engine_that_is_not_known_or_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime_genai

    class Old:
        get_logits = generate_next_token = append_tokens = None

    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime_genai, "Generator", Old)
        with pytest.raises(SessionError, match=r"no Generator.set_logits, .* 0.18 or later"):
            conceptguard.load_model(str(folder()))
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "onnxruntime_genai", None)
        with pytest.raises(ConceptGuardError, match=r"pip install 'conceptguard\[onnx\]'"):
            conceptguard.load_model(str(folder()))


def test_the_command_line_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    found = reported(capsys, "say", "--model", folder(), "--guard", "phrases:Broholm,Poburra", "--prompt", ASKED)
    (row,) = found["rows"]
    assert "Broholm" not in row["text"] and "born in" in row["text"] and row["forbidden"]
