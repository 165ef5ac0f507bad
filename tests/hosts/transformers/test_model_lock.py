"""A model under a policy answers its session and nobody else, and is given back whatever happens."""

from __future__ import annotations

import copy
import gc
import threading
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from text_guards import PHRASES, given
from tiny_language import taught, tiny_gpt2, tiny_llama, tiny_t5, tokenizer
from transformers import StoppingCriteriaList

import conceptguard
from conceptguard.errors import ConceptGuardError, GuardError, SessionError

LINES = (
    "The sun was warm. The man smoked a cigarette. Then he went home.",
    "The sun was warm. A dog ran in the park. Then he went home.",
)
PLAIN = {"max_new_tokens": 16, "do_sample": False}
SELF = "was called by itself"


def parts(model: Any) -> dict[str, Any]:
    """Ways to scores, or to what is one product away from them."""
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    ids, states = torch.tensor([[5, 6]]), torch.zeros(1, 2, head.in_features)
    own = {"decoder_input_ids": ids, "input_ids": ids} if model.config.is_encoder_decoder else {"input_ids": ids}
    more = {"encoder_hidden_states": states} if model.config.is_encoder_decoder else {}
    return {
        "model": lambda: model(**own), "forward": lambda: model.forward(**own),
        "decoder": lambda: decoder(input_ids=ids, **more),
        "its forward": lambda: decoder.forward(input_ids=ids, **more),
        "head": lambda: head(states),
        "compiled call": lambda: model.get_compiled_call(None)(**own),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_no_part_of_a_guarded_model_gives_scores(kind: str) -> None:
    tok = tokenizer("sentencepiece") if kind == "t5" else tokenizer()
    model = {"llama": tiny_llama, "gpt2": tiny_gpt2, "t5": tiny_t5}[kind](tok)
    own = {name: type(module) for name, module in model.named_modules()}
    for call in list(parts(model).values())[:5]:
        call()
    with conceptguard.attach((model, tok), PHRASES):
        for call in parts(model).values():
            with pytest.raises(GuardError, match=SELF):
                call()
        model.generate(**given(tok, "a dog"), max_new_tokens=2)
        model.get_encoder()(torch.tensor([[5, 6]])) if kind == "t5" else model.get_input_embeddings()(torch.tensor([5]))
    assert {name: type(module) for name, module in model.named_modules()} == own
    gc.collect()
    assert not any(module._forward_pre_hooks for module in model.modules())
    for call in list(parts(model).values())[:5]:
        call()


def test_a_compiled_model_is_held_as_well() -> None:
    """Compiled before the policy came, with the scores' way in compiled code."""
    tok, model = tokenizer(), tiny_llama()
    compiled, ids = torch.compile(model, backend="eager"), torch.tensor([[5, 6]])
    bare = compiled(ids).logits
    with conceptguard.attach((compiled, tok), PHRASES) as guard:
        with pytest.raises(GuardError, match=SELF):
            compiled(ids)
        out = compiled.generate(ids, **PLAIN)
        assert guard.receipt.steps == out.shape[1] - 2
        with pytest.raises(GuardError, match=SELF):
            compiled(ids)
    assert torch.equal(compiled(ids).logits, bare)


@pytest.mark.parametrize("kind", ["lora", "prompt tuning"])
def test_a_peft_wrapper_and_what_it_wraps(kind: str) -> None:
    """One guard, whether it was attached to the wrapper or to the model in it, and whoever is called."""
    model, tok = taught(*LINES)
    config = {
        "lora": LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]),
        "prompt tuning": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    }[kind]
    wrapped = get_peft_model(copy.deepcopy(model), config)
    inner, one = wrapped.get_base_model(), given(tok, "The sun was warm. The man smoked a")
    for target in (wrapped, inner):
        with conceptguard.attach((target, tok), PHRASES) as guard:
            for speaker in (wrapped, inner, wrapped.base_model):
                text = tok.decode(speaker.generate(**one, **PLAIN)[0])
                assert "cigarette" not in text and guard.receipt.steps
                with pytest.raises(GuardError, match=SELF):
                    speaker(**one)
            with pytest.raises(SessionError, match="already guarded"):
                conceptguard.attach((wrapped, tok), PHRASES)
            with wrapped.disable_adapter():
                assert "cigarette" not in tok.decode(wrapped.generate(**one, **PLAIN)[0])
        assert torch.isfinite(wrapped(**one).logits).all()
    assert "cigarette" in tok.decode(inner.generate(**one, **PLAIN)[0])


def test_a_generate_of_the_object_itself_is_guarded() -> None:
    """As models have it that bring their own from the Hub."""
    model, tok = tiny_llama(), tokenizer()

    def own(obedient: bool = True, **kwargs: Any) -> Any:
        if not obedient:
            del kwargs["logits_processor"]
        return type(model).generate(model, **kwargs)

    model.generate = own
    with conceptguard.attach((model, tok), PHRASES) as guard:
        model.generate(**given(tok, "a"), max_new_tokens=2)
        assert guard.receipt.steps == 2
        with pytest.raises(GuardError, match="was called inside of a guarded"):
            model.generate(**given(tok, "a"), max_new_tokens=2, obedient=False)
    assert model.generate is own


def test_detach_in_a_callback_gives_the_model_back() -> None:
    """What was begun under the policy does not go on without it, and the model answers everybody again."""
    model, tok = tiny_llama(), tokenizer()
    own, one = type(model), given(tok, "a red apple")
    for at in (1, 4):
        session = conceptguard.attach((model, tok), PHRASES)

        def leave(ids: torch.Tensor, scores: Any, session: Any = session, at: int = at, **_: Any) -> torch.Tensor:
            if ids.shape[1] - one["input_ids"].shape[1] == at:
                session.detach()
            return torch.zeros(len(ids), dtype=torch.bool)

        def speak(leave: Any = leave) -> Any:
            criteria = StoppingCriteriaList([leave])
            return model.generate(**one, max_new_tokens=4, min_new_tokens=4, stopping_criteria=criteria)

        if at == 1:
            with pytest.raises(SessionError, match="not attached any more"):
                speak()
        else:
            assert speak().shape[1] == one["input_ids"].shape[1] + 4  # guarded to the last token
        assert type(model) is own and not session.attached
        assert torch.isfinite(model(**one).logits).all() and len(model.generate(**one, max_new_tokens=2))
        gc.collect()
        assert not model._forward_pre_hooks


def test_an_error_in_a_draft_gives_the_model_back() -> None:
    model, tok = tiny_llama(), tokenizer()
    one = given(tok, "a red apple")
    session = conceptguard.attach((model, tok), PHRASES)
    model.generate(**one, max_new_tokens=3, assistant_early_exit=1)
    layers = model.config.num_hidden_layers
    with pytest.raises(IndexError):
        model.generate(input_ids=torch.tensor([[10**6]]), max_new_tokens=3)
    with pytest.raises(GuardError, match=SELF):
        model(**one)
    session.detach()
    assert torch.isfinite(model(**one).logits).all() and model.config.num_hidden_layers == layers


def test_a_copy_of_a_guarded_model_answers_nobody() -> None:
    model, tok = tiny_llama(), tokenizer()
    one = given(tok, "a")
    with conceptguard.attach((model, tok), PHRASES):
        twin = copy.deepcopy(model)
    for call in (lambda: twin(**one), lambda: twin.generate(**one, max_new_tokens=2)):
        with pytest.raises(GuardError):
            call()
    assert len(model.generate(**one, max_new_tokens=2))


def cycles(rounds: int, threads: int) -> tuple[list[str], int]:
    """Threads attach, generate, cancel and detach on one model at will; what went wrong, and how many texts came."""
    model, tok = tiny_llama(), tokenizer()
    words = ["dog", "red", "cigarette"]
    policies = [{"name": word, "guards": [{"method": "phrases", "concept": {"name": word, "prompts": [word]}}]}
                for word in words]  # fmt: skip
    prompts = [f"a {name} on a table" for name in ("man", "book", "house", "tree")]
    expected: dict[tuple[str, str], list[int]] = {}
    for policy in policies:
        with conceptguard.attach((model, tok), policy):
            for prompt in prompts:
                expected[policy["name"], prompt] = model.generate(**given(tok, prompt), **PLAIN)[0].tolist()
    wrong: list[str] = []
    texts = [0] * threads

    class Cancelled(Exception): ...

    def cancel(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        raise Cancelled

    def work(thread: int) -> None:
        for turn in range(rounds):
            policy, prompt = policies[(thread + turn) % 3], prompts[(thread * 3 + turn) % 4]
            try:
                with conceptguard.attach((model, tok), policy) as guard:
                    if turn % 5 == 4:
                        with pytest.raises(Cancelled):
                            model.generate(**given(tok, prompt), **PLAIN, stopping_criteria=[cancel])
                        continue
                    said = model.generate(**given(tok, prompt), **PLAIN)[0].tolist()
                    receipt = guard.receipt
                texts[thread] += 1
                rows, guards = [row.text for row in receipt.rows], [act.guard for act in receipt.acts]
                if said != expected[policy["name"], prompt]:
                    wrong.append(f"text {tok.decode(said)}")
                if rows != [prompt] or guards != [f"phrases {policy['name']}"] or receipt.policy != policy["name"]:
                    wrong.append(f"receipt {rows} {guards} for {prompt} {policy['name']}")
            except ConceptGuardError:
                pass  # somebody else's turn: said at once, by name
            except BaseException as error:
                wrong.append(f"{type(error).__name__}: {error}")

    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    gc.collect()
    if type(model).__mro__[0] is not type(tiny_llama()) or model._forward_pre_hooks:
        wrong.append("left behind")
    return wrong, sum(texts)


def test_threads_that_attach_and_generate_take_turns() -> None:
    wrong, texts = cycles(rounds=12, threads=4)
    assert not wrong, wrong[:5]
    assert texts


@pytest.mark.slow
def test_threads_that_attach_and_generate_for_long() -> None:
    wrong, texts = cycles(rounds=1250, threads=8)
    assert not wrong, wrong[:5]
    assert texts > 1000


def test_threads_under_one_session_take_turns() -> None:
    """Each text is the one that its prompt gets alone, and each generation has its own receipt."""
    model, tok = tiny_llama(), tokenizer()
    prompts = [f"a {name} on a table" for name in ("man", "book", "house", "tree")]
    found: dict[str, list[int]] = {}
    told: dict[str, list[str | None]] = {}
    met = threading.Barrier(len(prompts))
    with conceptguard.attach((model, tok), PHRASES) as guard:
        alone = {prompt: model.generate(**given(tok, prompt), **PLAIN)[0].tolist() for prompt in prompts}

        def speak(prompt: str) -> None:
            found[prompt] = model.generate(**given(tok, prompt), **PLAIN)[0].tolist()
            met.wait(60)
            told[prompt] = [row.text for row in guard.receipt.rows]

        workers = [threading.Thread(target=speak, args=(prompt,)) for prompt in prompts]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert found == alone
        assert told == {prompt: [prompt] for prompt in prompts}


def test_one_processor_in_two_generations_at_once_says_so() -> None:
    model, tok = tiny_llama(), tokenizer()
    processor = conceptguard.logits_processor(model, tok, PHRASES)
    begun, done = threading.Event(), threading.Event()
    raised: list[BaseException] = []

    def waits(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        begun.set()
        done.wait(60)
        return torch.zeros(len(ids), dtype=torch.bool)

    def slow() -> None:
        try:
            model.generate(**given(tok, "a book"), **PLAIN, logits_processor=processor, stopping_criteria=[waits])
        except GuardError as error:
            raised.append(error)

    worker = threading.Thread(target=slow)
    worker.start()
    assert begun.wait(60)
    out = model.generate(**given(tok, "a red apple"), **PLAIN, logits_processor=processor)
    receipt = processor.receipt
    done.set()
    worker.join()
    assert [row.text for row in receipt.rows] == ["a red apple"]
    assert receipt.steps == out.shape[1] - given(tok, "a red apple")["input_ids"].shape[1]
    assert len(raised) == 1 and "is in two generations at once: make one for each" in str(raised[0])


def test_garbage_that_is_collected_while_a_policy_is_attached() -> None:
    """A processor that goes then takes its hook along, and waits for nobody."""
    from conceptguard.hosts.transformers import model_lock

    model, tok = tiny_llama(), tokenizer()
    processor = conceptguard.logits_processor(model, tok, PHRASES)
    done = threading.Event()

    def go() -> None:
        nonlocal processor
        with model_lock._turning:
            del processor
            gc.collect()
        done.set()

    threading.Thread(target=go, daemon=True).start()
    assert done.wait(20) and not model._forward_pre_hooks
