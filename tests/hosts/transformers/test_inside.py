"""Inside of a language model: terms beside layers and functions of what they give, on the rows that a prompt opens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, ClassVar

import pytest
import torch
from tiny_language import tiny_gpt2, tiny_llama, tiny_t5, tokenizer
from torch import Tensor

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import BaseMismatch, GuardError, SessionError
from conceptguard.runtime.lowrank import Factors, LayerIndex
from conceptguard.runtime.within import Within
from conceptguard.testing.kit_guards import offered

FAMILIES = {
    "llama": (tiny_llama, "model.model.layers.1.mlp.down_proj", "model.model.layers.0"),
    "gpt2": (tiny_gpt2, "model.transformer.h.1.mlp.c_proj", "model.transformer.h.0"),
    "t5": (tiny_t5, "model.decoder.block.1.layer.2.DenseReluDense.wo", "model.encoder.block.0.layer.0"),
}
PROMPTS = ["a red apple on the table", "the dog", "a man and a dog went home"]
WAYS = {
    "greedy": {"do_sample": False}, "sampled": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
}  # fmt: skip


class Terms(Method):
    """Text: pushes what a layer gives to one side, where a prompt names a dog."""

    name = "inner_terms"
    needs = "nothing"
    layer: ClassVar[str] = ""

    @hookimpl
    def hidden_states(self, layers: LayerIndex) -> Within:
        out, into = layers.shapes()[self.layer] if self.layer in layers else (8, 8)
        random = torch.Generator().manual_seed(0)
        factors = Factors(torch.randn(2, into, generator=random), torch.randn(out, 2, generator=random))
        return Within(self, lambda ids, text: float(text is None or "dog" in text), {self.layer: factors})


class Changes(Method):
    """Text: the same by a function of what a block gives."""

    name = "inner_changes"
    needs = "nothing"
    layer: ClassVar[str] = ""
    seen: ClassVar[list[int]] = []

    @hookimpl
    def hidden_states(self, layers: LayerIndex) -> Within:
        def change(states: Tensor, gates: Tensor) -> Tensor:
            self.seen.append(len(states))
            return states + 3 * gates[:, None, None] * states.roll(1, -1)

        return Within(self, lambda ids, text: float(text is None or "dog" in text), {}, {self.layer: change})


@pytest.fixture(params=[*FAMILIES])
def family(request: Any) -> Iterator[tuple[Any, Any, type[Method], dict[str, Any]]]:
    """A model, its tokenizer, and both guards, offered."""
    make, layer, block = FAMILIES[request.param]
    tok = tokenizer("sentencepiece" if request.param == "t5" else "bytes")
    Terms.layer, Changes.layer = layer, block
    Changes.seen.clear()
    with offered(Terms) as one, offered(Changes) as other:
        # random weights of T5 say nothing but these
        silent = {"suppress_tokens": [tok.pad_token_id, tok.eos_token_id]} if request.param == "t5" else {}
        yield make(tok), tok, {"terms": one, "changes": other}, {"pad_token_id": tok.pad_token_id, **silent}


def said(model: Any, tok: Any, prompts: list[str], **options: Any) -> list[list[int]]:
    given = tok(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
    torch.manual_seed(0)
    begin = 1 if model.config.is_encoder_decoder else given.input_ids.shape[1]
    return model.generate(**given, max_new_tokens=8, **options)[:, begin:].tolist()


def test_rows_that_open_and_rows_that_do_not(family: Any) -> None:
    model, tok, guards, pad = family
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    for kind, guard in guards.items():
        for options in WAYS.values():
            options = {**options, **pad}
            bare = [said(model, tok, [prompt], **options) for prompt in PROMPTS]
            with conceptguard.attach((model, tok), {"guards": [guard]}) as session:
                alone = [said(model, tok, [prompt], **options) for prompt in PROMPTS]
                gates = session.receipt.acts[0].gates
                together = said(model, tok, PROMPTS, **options)
                act = session.receipt.acts[0]
            assert alone[0] == bare[0], "a closed gate is nothing at all"
            assert alone[1] != bare[1] and alone[2] != bare[2], "an open one acts"
            assert gates == [1.0] and act.gates == [0.0, 1.0, 1.0] and act.steps and act.layers == 1
            if "do_sample" not in options or not options["do_sample"]:
                each = len(together) // len(PROMPTS)
                for row, own in enumerate(alone):
                    assert together[row * each : (row + 1) * each] == own, (kind, options, row)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_nothing_stands_in_the_way_of_a_closed_gate(family: Any) -> None:
    model, tok, guards, pad = family
    forwards: list[bool] = []

    def look(*_: Any) -> None:
        forwards.append(any("forward" in vars(module) for module in model.modules()))

    with conceptguard.attach((model, tok), {"guards": [*guards.values()]}):
        handle = model.register_forward_hook(look)
        said(model, tok, PROMPTS[:1], do_sample=False, **pad)
        assert forwards and not any(forwards)
        forwards.clear()
        said(model, tok, PROMPTS[1:2], do_sample=False, **pad)
        assert all(forwards)
        handle.remove()
        with pytest.raises(RuntimeError, match="mine"):
            said(model, tok, PROMPTS[1:2], logits_processor=[_Raises()], **pad)
    hooks = [module for module in model.modules() if module._forward_pre_hooks or module._forward_hooks]
    assert not hooks and not any("forward" in vars(module) for module in model.modules())


class _Raises:
    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        raise RuntimeError("mine")


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_beside_others_that_ask_and_take_back(make: Callable[..., Any]) -> None:
    """A row said again has its own gate; what a bank of phrases asks ahead is about the rows that it asks of."""
    tok, model = tokenizer(), make(tokenizer())
    Terms.layer = FAMILIES["llama" if make is tiny_llama else "gpt2"][1]
    names = {"method": "phrases", "concept": {"name": "x", "prompts": ["cigarette", "red", "elena", "on a"]}}
    with offered(Terms) as guard:
        for options in ({"do_sample": False}, {"do_sample": False, "num_beams": 2}):
            with conceptguard.attach((model, tok), {"guards": [guard, names]}):
                alone = [said(model, tok, [prompt], **options) for prompt in PROMPTS]
                together = said(model, tok, PROMPTS, **options)
            pads = {tok.pad_token_id, tok.eos_token_id}
            ended = [[[t for t in row if t not in pads] for row in rows] for rows in (together, [*chain(*alone)])]
            assert ended[0] == ended[1]


def test_what_cannot_be_reached() -> None:
    tok, model = tokenizer(), tiny_llama(tokenizer())
    with offered(Terms) as guard, offered(Changes) as other:
        Terms.layer, Changes.layer = "model.model.layers.7.mlp.down_proj", "model.model.layers.7"
        for one in (guard, other):
            with pytest.raises(BaseMismatch, match=r"layers\.7"):
                conceptguard.attach((model, tok), {"guards": [one]})
        Terms.layer = FAMILIES["llama"][1]
        with pytest.raises(SessionError, match=r"acts inside of the model.*use conceptguard\.attach"):
            conceptguard.logits_processor(model, tok, {"guards": [guard]})
        with (
            conceptguard.attach((model, tok), {"guards": [guard]}),
            pytest.raises(GuardError, match=r"custom_generate|asked"),
        ):
            said(model, tok, PROMPTS[1:2], custom_generate=lambda model, ids, **given: ids)
