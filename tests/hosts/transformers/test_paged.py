"""transformers' own batching (``generate_batch``, a paged cache, a manager of requests): it asks no logits processor,
so that nothing is said by it while a policy is there."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from text_guards import PHRASES, given
from tiny_language import tiny_llama, tokenizer

import conceptguard
from conceptguard.errors import GuardError

SMALL = {"num_blocks": 4, "max_batch_tokens": 32}  # of itself it takes most of the memory there is
BATCHES = hasattr(tiny_llama(), "generate_batch")
if BATCHES:
    kind: Any = getattr(transformers, "ContinuousBatchingConfig", None)
    CONFIG = {"continuous_batching_config": kind(page_size=32, **SMALL)} if kind is not None else {}


def batched(model: Any, prompts: list[list[int]], **options: Any) -> tuple[list[list[int]], list[str]]:
    """What ``generate_batch`` says to each prompt, and its errors."""
    if not CONFIG:  # older releases are told by the generation config
        options["generation_config"] = transformers.GenerationConfig(
            max_new_tokens=4, eos_token_id=2, pad_token_id=0, block_size=32, **SMALL
        )
    out = model.generate_batch(inputs=prompts, max_new_tokens=4, **CONFIG, **options)
    said = [getattr(one, "generated_tokens", one) for one in (out.values() if isinstance(out, dict) else out)]
    return said, [str(one.error) for one in out.values() if one.error] if isinstance(out, dict) else []


@pytest.mark.skipif(not BATCHES, reason="this release has no continuous batching")
def test_no_batch_is_said_beside_a_processor() -> None:
    """A processor given to it would not be asked: whoever has one is told, before the first token."""
    model, tok = tiny_llama(), tokenizer()
    prompts = [tok(text).input_ids for text in ("a red apple", "a dog")]
    assert [len(ids) for ids in batched(model, prompts)[0]] == [4, 4]  # it works here, unguarded
    processor = conceptguard.logits_processor(model, tok, PHRASES)
    said, errors = batched(model, prompts, logits_processor=processor)
    assert not any(said) and len(errors) == 2
    assert all("continuous batching (generate_batch, a paged cache) asks none" in error for error in errors)
    with pytest.raises(GuardError, match="was never asked"):
        _ = processor.receipt
    del processor
    assert [len(ids) for ids in batched(model, prompts)[0]] == [4, 4]


def test_a_paged_cache_says_nothing_beside_a_processor() -> None:
    """Also asked for by ``generate``, which drops its processors then; older releases know no such cache."""
    model, tok = tiny_llama(), tokenizer()
    one, processor = given(tok, "a dog"), conceptguard.logits_processor(model, tok, PHRASES)
    options = {**(CONFIG if BATCHES else {}), "max_new_tokens": 4, "cache_implementation": "paged"}
    try:
        out = model.generate(**one, logits_processor=processor, **options)
    except (GuardError, ValueError, KeyError, TypeError):
        pass
    else:
        assert out.numel() == one["input_ids"].numel()
    with pytest.raises(GuardError, match="was never asked"):
        _ = processor.receipt


@pytest.mark.skipif(not BATCHES, reason="this release has no continuous batching")
def test_an_attached_policy_refuses_every_door() -> None:
    """Also a manager from before, which calls the model from a thread of its own."""
    model, tok = tiny_llama(), tokenizer()
    ids = tok("a dog").input_ids
    config = {} if CONFIG else {"generation_config": transformers.GenerationConfig(max_new_tokens=4, **SMALL)}
    manager = model.init_continuous_batching(**CONFIG, **config)
    with conceptguard.attach((model, tok), PHRASES):
        with pytest.raises(GuardError, match="asks no logits processor"):
            model.generate_batch(inputs=[ids])
        with pytest.raises(GuardError, match="asks no logits processor"):
            model.init_continuous_batching(**CONFIG)
        if hasattr(model, "continuous_batching_context_manager"):
            with pytest.raises(GuardError, match="asks no"), model.continuous_batching_context_manager():
                pass
        with pytest.raises(GuardError, match="asks no logits processor"):
            model.generate(**given(tok, "a dog"), max_new_tokens=4, cache_implementation="paged")
        manager.start()
        try:
            manager.add_request(ids, max_new_tokens=4)
            found = manager.get_result(timeout=10)
        finally:
            manager.stop(block=True, timeout=5)
        assert found is None or (not found.generated_tokens and "called by itself" in str(found.error))
