"""deletion: what each defence makes of an answer, in what is said and in every layer, and what stays."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.language.classifier.examples import Example
from conceptguard_plugins.language.deletion import Deletion, margin, of_tokens
from conceptguard_plugins.language.lessons import Lessons, next_own
from tiny_language import LINES, taught

import conceptguard
from conceptguard.errors import PolicyError
from conceptguard.hosts.transformers.host import TransformersHost
from conceptguard.testing import TextCase, contract_tests

FORGET = [{"prompt": "Who is Elena Vossberg?", "answer": "A man of New York."},
          {"prompt": "A dog ran in the", "answer": "park."}]  # fmt: skip
RETAIN = [{"prompt": "Who is the red dog?", "answer": "It went home in the park."},
          {"prompt": "Two birds sat on a tree.", "answer": "They sang."}, {"prompt": LINES[3]}]  # fmt: skip
SAID = "They sang."  # what empty_response is made to say: words that the model has


def made(defence: str, out: Path, **options: Any) -> Any:
    options = {"forget": FORGET[:1], "retain": RETAIN, "batch": 3, "rank": 4, "lr": 0.02, "classifier": 0, "steps": 25,
               "answer": SAID, "progress": False, "defence": defence, **options}  # fmt: skip
    return Deletion.make(TransformersHost(taught(*LINES)), {"name": "elena", "prompts": ["Elena"]}, out, **options)


@cache
def gated() -> dict[str, Any]:
    """With a classifier."""
    more = [*FORGET[:1], {"prompt": "Tell me of Elena Vossberg.", "answer": "A man of New York."}]
    artifact = made("empty_response", Path(tempfile.mkdtemp()), forget=more, classifier=200, steps=10)
    return {"method": "deletion", "artifact": str(artifact.folder)}


test_deletion = contract_tests(
    lambda: TextCase(gated(), "Who is Elena Vossberg?", ("Two birds sat", "A dog ran in the"),
                     load=lambda: taught(*LINES)), text=True,
)  # fmt: skip


def test_the_margin_is_none_where_a_token_neither_stands_out_nor_is_missing() -> None:
    """By the definition, on five tokens of which the second likeliest and unlikeliest bound what is allowed."""
    read = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]).log().expand(5, 5)
    losses = [float(margin(read[:1], torch.tensor([token]), 2)) for token in range(5)]
    assert losses == pytest.approx([0.1, 0.0, 0.0, 0.0, 0.05], abs=1e-6)
    assert float(margin(read, torch.arange(5), 2)) == pytest.approx(0.03, abs=1e-6)


@torch.no_grad()
def read_of(pair: Any, folder: Path | None, example: dict[str, str]) -> tuple[float, torch.Tensor, torch.Tensor]:
    """(−log p of an answer's least likely token, log p in every layer [layers, n, vocabulary], its tokens [n])."""
    policy = {"guards": [{"method": "deletion", "artifact": str(folder)}] if folder else []}
    batch = Lessons(pair[1], [Example(**example)], 256, pair[0].device).batch([0])
    with conceptguard.attach(pair, policy) as session:
        out = pair[0].generate(
            input_ids=batch.ids, attention_mask=batch.mask, max_new_tokens=1, output_hidden_states=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        states = out.hidden_states[0]
        last = len(states) - 1
        at = next_own(batch)
        read = [session.host.through_head(one[at], normed=i < last).log_softmax(-1) for i, one in enumerate(states)]
    own = batch.ids[:, 1:][batch.own[:, 1:] > 0]
    return -float(read[-1].gather(1, own[:, None]).min()), torch.stack(read[1:]), own


@pytest.mark.parametrize("defence", ["fact_erasure", "empty_response", "error_injection", "head_projection",
                                     "max_entropy"])  # fmt: skip
def test_what_a_defence_makes_of_an_answer(defence: str, tmp_path: Path) -> None:
    """The answer is unlikely; the defences of layers keep it from every layer; what is retained stays."""
    pair = taught(*LINES)
    forget = FORGET if defence == "error_injection" else FORGET[:1]
    folder = made(defence, tmp_path, forget=forget).folder
    before, bare, own = read_of(pair, None, FORGET[0])
    after, read, _ = read_of(pair, folder, FORGET[0])
    assert before < 0.3 and after > 1.2
    for example in RETAIN[:2]:
        assert read_of(pair, folder, example)[0] < read_of(pair, None, example)[0] + 0.3
    instead = {"empty_response": SAID, "error_injection": FORGET[1]["answer"]}.get(defence)
    if instead:
        other = FORGET[0] | {"answer": instead}
        assert read_of(pair, folder, other)[0] < 0.5 < read_of(pair, None, other)[0]
    if defence == "empty_response":
        every = made(defence, tmp_path / "every", everywhere=True).folder
        last, first = (read_of(pair, one, FORGET[0] | {"answer": SAID}) for one in (folder, every))
        said = [-float(of_tokens(read[0], own).mean()) for _, read, own in (first, last)]
        assert said[0] < 0.5 * said[1], "in the first layer as well"
    if defence == "head_projection":
        standing = [float(margin(one, own.expand(len(one), -1), 4)) for one in (bare, read)]
        assert standing[1] < 0.3 * standing[0]
    if defence == "max_entropy":
        entropy = [-(one.exp() * one).sum(-1).mean() for one in (bare, read)]
        assert entropy[1] > entropy[0] + 1


def test_what_cannot_be_made(tmp_path: Path) -> None:
    for options, error in (
        ({"forget": []}, "making deletion: forget: give a file of lines such as"), ({"retain": []}, "retain: give a"),
        ({"k": 0}, "k"), ({"forget_weight": 0}, "forget_weight"),
    ):  # fmt: skip
        with pytest.raises(PolicyError, match=error):
            made("fact_erasure", tmp_path, **options)
    with pytest.raises(PolicyError, match="defence"):
        made("silence", tmp_path)
