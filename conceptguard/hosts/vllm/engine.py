"""What vLLM was started with: the model that it serves, and what guards could not keep their promises beside."""

from __future__ import annotations

from typing import Any

import torch

from ...errors import SessionError
from .host import Served


def demand_promises(config: Any) -> None:
    """Raises SessionError for an engine, a VllmConfig, in which a token could be said that no guard was asked about, or
    a prompt read that none has seen."""
    model = config.model_config
    because = [
        (config.speculative_config, "speculative decoding chooses among drafts, and guards are asked about answers: "
                                    "promise 3, that nothing unguarded leaves; start it without"),
        (model.enable_prompt_embeds, "a prompt may come as embeddings, which no guard reads: promise 4, that a guard "
                                     "sees every condition; start it without --enable-prompt-embeds"),
        (model.is_multimodal_model, "the model reads more than text, which no guard of text sees: promise 4, that a "
                                    "guard sees every condition; serve one of text alone, or attach in transformers"),
        (model.is_encoder_decoder, "the prompt is the encoder's, which no logits processor is shown: promise 4, that a "
                                   "guard sees every condition; attach in transformers"),
        (getattr(model, "is_diffusion", False), "a text that comes by diffusion is not said token by token: promise 3, "
                                                "that nothing unguarded leaves"),
        (getattr(model, "enable_trace_replay", False), "replayed traces say tokens whatever guards close: promise 3, "
                                                       "that nothing unguarded leaves; start it without"),
    ]  # fmt: skip
    for there, why in because:
        if there:
            raise SessionError(f"cannot guard what this vLLM says: {why}")


def served(config: Any, device: torch.device) -> Served:
    """The model of an engine, with its tokenizer. Raises SessionError where nothing ends its texts."""
    from transformers import AutoTokenizer

    model = config.model_config
    tokenizer = AutoTokenizer.from_pretrained(
        model.tokenizer, revision=model.tokenizer_revision, trust_remote_code=model.trust_remote_code
    )
    ends = _ids(tokenizer.eos_token_id) | _ids(model.try_get_generation_config().get("eos_token_id"))
    if not ends:
        raise SessionError(
            f"nothing ends a text of {model.model}: where guards leave no token, none could be said; give its "
            "tokenizer an eos_token"
        )
    return Served(str(model.model), tokenizer, model.get_vocab_size(), ends, device)


def _ids(given: Any) -> frozenset[int]:
    return frozenset() if given is None else frozenset(map(int, given if isinstance(given, list) else [given]))
