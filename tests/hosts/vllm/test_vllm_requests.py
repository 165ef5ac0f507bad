"""Requests of an engine, each at a length of its own, without the engine: its part is a loop over the real model here.

The engine itself is in ``test_vllm.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from faulty_guards import NothingLeft
from torch import Tensor

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import ConceptGuardError, PolicyError, SessionError
from conceptguard.generation.decoding import Sentence
from conceptguard.hosts.vllm.host import Served, VllmHost
from conceptguard.hosts.vllm.policies import Policies, policies
from conceptguard.hosts.vllm.requests import Requests, Saying
from conceptguard.records.listeners import Ended, listen
from conceptguard.testing.kit_guards import offered

ASKED = "Question: Where was Siojaera Zavald born?\nAnswer:"  # "... was born in Broholm."
OTHERS = ("Question: Where was Naes Zavald born?\nAnswer:", "On which river does Broholm lie?\n")
TOWNS = "guards: [{method: phrases, concept: {name: towns, prompts: [Broholm, Poburra]}}]"


@pytest.fixture(scope="module")
def pair() -> Any:
    return conceptguard.load_model("authors-lm")


@pytest.fixture
def towns(tmp_path: Path) -> str:
    (tmp_path / "towns.yaml").write_text(TOWNS)
    return str(tmp_path / "towns.yaml")


def host(pair: Any, size: int | None = None) -> VllmHost:
    model, tokenizer = pair
    ends = frozenset([tokenizer.eos_token_id])
    return VllmHost(Served("authors-lm", tokenizer, size or model.config.vocab_size, ends, torch.device("cpu")))


def scores(pair: Any, ids: list[int]) -> Tensor:
    with torch.inference_mode():
        found = pair[0](torch.tensor([ids])).logits[0, -1:].float()
    return found.clone()


class Loop:
    """What an engine does: requests come when they come, every step says one more token to each that is there."""

    def __init__(self, pair: Any, requests: Requests):
        self.pair, self.requests = pair, requests
        self.texts: dict[Saying, list[int]] = {}

    def come(self, prompt: str, named: object = None, said: tuple[int, ...] = ()) -> Saying:
        ids = self.pair[1](prompt).input_ids
        saying = self.requests.begin(named)
        saying.begin = len(ids)
        saying.read([*ids, *said])
        self.texts[saying] = [*ids, *said]
        return saying

    def step(self) -> None:
        for saying, ids in self.texts.items():
            own = scores(self.pair, ids)
            self.requests.close(own)
            saying.settle(own)
            ids.append(int(own.argmax()))
            saying.add(ids[-1:])

    def said(self, saying: Saying) -> list[int]:
        return self.texts[saying][saying.begin :]

    def text(self, saying: Saying) -> str:
        return str(self.pair[1].decode(self.said(saying)))


def bare(pair: Any, prompt: str, tokens: int) -> list[int]:
    ids = pair[1](prompt).input_ids
    begin = len(ids)
    for _ in range(tokens):
        ids.append(int(scores(pair, ids).argmax()))
    return ids[begin:]


def test_requests_come_and_go_and_each_is_under_its_own_policies(pair: Any, towns: str) -> None:
    loop = Loop(pair, Requests(host(pair), Policies(None, {"towns": Path(towns), "none": nothing(towns)})))
    first = loop.come(ASKED, "towns")
    for _ in range(5):
        loop.step()
    second, free = loop.come(OTHERS[0], "towns"), loop.come(ASKED, "none")
    for _ in range(12):
        loop.step()
    assert "Broholm" in loop.text(free) and "Broholm" not in loop.text(first)
    assert loop.said(free) == bare(pair, ASKED, 12) and loop.said(second) == bare(pair, OTHERS[0], 12)
    alone = Loop(pair, Requests(host(pair), Policies(towns, {})))
    only = alone.come(ASKED)
    for _ in range(17):
        alone.step()
    assert alone.said(only) == loop.said(first)
    sessions = set(map(id, first.sessions))
    loop.texts.clear()
    loop.requests.end(first)
    again = loop.come(ASKED, "towns")
    for _ in range(17):
        loop.step()
    assert loop.said(again) == alone.said(only)
    assert set(map(id, again.sessions)) == sessions, "a session serves one request after another"


def nothing(towns: str) -> Path:
    path = Path(towns).with_name("nothing.yaml")
    path.write_text("guards: [{method: no_thinking}]")
    return path


def test_what_a_request_names_is_added_to_what_every_one_is_under(pair: Any, towns: str) -> None:
    more = Path(towns).with_name("more.yaml")
    more.write_text("guards: [{method: phrases, concept: {name: more, prompts: [Panesse]}}]")
    loop = Loop(pair, Requests(host(pair), Policies(towns, {"more": more})))
    one, both = loop.come(ASKED), loop.come(ASKED, "more")
    for _ in range(12):
        loop.step()
    assert "Panesse" in loop.text(one)
    assert not any(town in loop.text(both) for town in ("Broholm", "Panesse", "Poburra"))


def test_a_request_that_was_put_off_goes_on_as_if_it_had_not_been(pair: Any, towns: str) -> None:
    """An engine short of memory forgets a request and computes its prompt and what it had said again: what was said
    must not be taken for prompt."""
    loop = Loop(pair, Requests(host(pair), Policies(towns, {})))
    whole = loop.come(ASKED)
    for _ in range(12):
        loop.step()
    said = loop.said(whole)
    for at in range(1, 12):
        late = Loop(pair, loop.requests)
        rest = late.come(ASKED, said=tuple(said[:at]))
        for _ in range(12 - at):
            late.step()
        assert late.said(rest) == said
        (session,) = rest.sessions
        assert session.receipt.steps in (11, 12)
        late.requests.end(rest)


def test_a_prompt_that_comes_in_parts_is_read_whole(pair: Any, towns: str) -> None:
    """Scores of a part are asked about and thrown away, then those of the whole are asked about."""
    loop = Loop(pair, Requests(host(pair), Policies(towns, {})))
    saying = loop.come(ASKED)
    for _ in range(3):
        saying.settle(scores(pair, loop.texts[saying]))
    for _ in range(12):
        loop.step()
    assert "Broholm" not in loop.text(saying) and loop.said(saying)[:5] == bare(pair, ASKED, 5)


def test_a_text_that_goes_on_after_its_end_is_guarded_there(pair: Any, towns: str) -> None:
    """As a request for ``ignore_eos`` has it: a phrase that is one token, right after an end."""
    words = Path(towns).with_name("words.yaml")
    words.write_text("guards: [{method: phrases, concept: {name: words, prompts: [born, was, author]}}]")
    requests, (_, tokenizer) = Requests(host(pair), Policies(str(words), {})), pair
    saying = requests.begin(None)
    prompt = tokenizer(ASKED).input_ids
    saying.begin = len(prompt)
    saying.read([*prompt, tokenizer.eos_token_id])
    own = torch.zeros(1, pair[0].config.vocab_size)
    saying.settle(own)
    shut = {tokenizer.decode([i]).strip() for i in (own[0] == -torch.inf).nonzero().flatten().tolist()}
    assert {"born", "was"} <= shut


class NoTowns(Method):
    """Takes back sentences."""

    name = "no-towns"
    needs = "nothing"

    @hookimpl
    def check_sentence(self, sentence: Sentence) -> None: ...


def test_where_nothing_is_left_the_text_ends_and_the_server_goes_on(pair: Any, tmp_path: Path) -> None:
    with offered(NothingLeft):
        (tmp_path / "left.yaml").write_text("guards: [{method: nothing-left}]")
        loop = Loop(pair, Requests(host(pair), Policies(str(tmp_path / "left.yaml"), {})))
        saying = loop.come(ASKED)
        for _ in range(3):
            loop.step()
        assert loop.said(saying) == [pair[1].eos_token_id] * 3


def test_tokens_that_the_tokenizer_does_not_have_are_closed(pair: Any, towns: str) -> None:
    size = pair[0].config.vocab_size + 7
    requests = Requests(host(pair, size), Policies(towns, {}))
    own = torch.zeros(2, size)
    requests.close(own)
    assert bool((own[:, len(pair[1]) :] == -torch.inf).all()) and bool((own[:, : len(pair[1])] == 0).all())


def test_what_cannot_act_in_an_engine_is_an_error_when_it_starts(pair: Any, tmp_path: Path) -> None:
    def start(text: str) -> None:
        (tmp_path / "policy.yaml").write_text(text)
        Requests(host(pair), Policies(str(tmp_path / "policy.yaml"), {}))

    with offered(NoTowns), pytest.raises(SessionError, match=r"takes sentences.*cannot be kept on vllm"):
        start("guards: [{method: no-towns}]")
    inside = conceptguard.load_policy("forget-authors-inside").model_dump_json()
    with pytest.raises(ConceptGuardError, match=r"promise 3|reaches on vllm"):
        start(inside)
    with pytest.raises(SessionError, match="no guard of policy"):
        start("guards: [{method: negative_guidance, concept: {name: beer, prompts: [beer]}}]")
    with pytest.raises(PolicyError, match="unknown method"):
        start("guards: [{method: phrase}]")


def test_a_model_of_the_package_itself_is_told_where_guards_go() -> None:
    class LLM: ...

    LLM.__module__ = "vllm.entrypoints.llm"
    with pytest.raises(SessionError, match="vLLM chooses tokens in processes of its own; start it with CONCEPTGUARD_E"):
        conceptguard.attach(LLM(), TOWNS)


def test_an_operator_says_which_policies_there_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, towns: str) -> None:
    for name in ("CONCEPTGUARD_ENFORCE", "CONCEPTGUARD_POLICIES"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConceptGuardError, match="no policy: set CONCEPTGUARD_ENFORCE"):
        policies()
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("CONCEPTGUARD_POLICIES", str(tmp_path / "empty"))
    with pytest.raises(ConceptGuardError, match="no folder with policies"):
        policies()
    monkeypatch.setenv("CONCEPTGUARD_POLICIES", str(tmp_path))
    assert policies().of("towns") == (towns,)
    with pytest.raises(PolicyError, match=r"names: give one as 'conceptguard' in extra_args.*: towns"):
        policies().of(None)
    for wrong in ("town", "../towns", 7, ["towns"]):
        with pytest.raises(PolicyError, match="no policy '"):
            policies().of(wrong)
    monkeypatch.setenv("CONCEPTGUARD_ENFORCE", "forget-authors")
    assert policies().of(None) == ("forget-authors",) and policies().of("towns") == ("forget-authors", towns)


def test_listeners_hear_of_every_request(pair: Any, towns: str) -> None:
    heard: list[Ended] = []
    stop = listen(heard.append)
    try:
        loop = Loop(pair, Requests(host(pair), Policies(towns, {})))
        saying = loop.come(ASKED)
        for _ in range(12):
            loop.step()
        loop.requests.end(saying)
    finally:
        stop()
    (one,) = heard
    assert (one.kind, one.model, one.receipt.host, one.receipt.steps) == ("text", "authors-lm", "vllm", 12)
    assert one.receipt.opened and one.began < one.ended


def test_a_word_is_not_glued_to_the_half_that_was_left_of_it(pair: Any, tmp_path: Path) -> None:
    """Where "D" was left of "Daestead", the model goes on with "Daestead"; in a word of its own it is another word."""
    (tmp_path / "policy.yaml").write_text("guards: [{method: phrases, concept: {name: towns, prompts: [Daestead]}}]")
    _, tokenizer = pair
    requests = Requests(host(pair), Policies(str(tmp_path / "policy.yaml"), {}))
    prompt = tokenizer(ASKED).input_ids
    spaced, glued = (tokenizer(text, add_special_tokens=False).input_ids for text in (" Daestead", "xDaestead"))
    whole = [token for token in glued if tokenizer.decode([token]) != "x"]
    assert len(spaced) > 1 and tokenizer.decode(whole) == "Daestead"

    def shut(before: list[int]) -> bool:
        saying = requests.begin(None)
        saying.begin = len(prompt)
        saying.read(prompt)
        for token in before:
            saying.settle(torch.zeros(1, pair[0].config.vocab_size))
            saying.add([token])
        own = torch.zeros(1, pair[0].config.vocab_size)
        saying.settle(own)
        requests.end(saying)
        return bool(own[0, whole[-1]] == -torch.inf)

    assert shut([*spaced[:1], *whole[:-1]])
    assert not shut(glued[:-1])
