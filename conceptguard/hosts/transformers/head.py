"""What a model makes of a vector at its head."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...errors import BaseMismatch, SessionError

NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "final_norm")  # the last one before the head, by family


def check_head(model: Any) -> None:
    """Raises SessionError for a causal language model whose head was taken out, or replaced by what gives no scores.

    Some families keep theirs under a name that transformers does not tell: these pass.
    """
    head = model.get_output_embeddings()
    gone = head is None and getattr(model, "lm_head", model) is None
    # Packed by a quantiser it has no parameters, but sizes.
    empty = isinstance(head, nn.Module) and next(head.parameters(), None) is None and not hasattr(head, "out_features")
    if gone or empty:
        raise SessionError(
            f"cannot guard a {type(model).__name__} whose language-model head is {type(head).__name__}: it gives no "
            "scores of tokens; load it with its head"
        )


def through_head(model: Any, vectors: Tensor, normed: bool) -> Tensor:
    """What the language-model head reads in vectors [n, width]: a score for every token, [n, vocabulary], float32.

    normed: after the model's final norm, as its states are. Tied heads are read as any other. Raises BaseMismatch for
    a model without a head, or where its norm is not found.
    """
    head = model.get_output_embeddings()
    if head is None or not callable(head):
        raise BaseMismatch(
            f"a {type(model).__name__} has no language-model head, with which a vector could be read as tokens: load "
            "it as a causal language model"
        )
    given = vectors.to(model.device, model.dtype)
    if normed:
        inner = model.get_decoder()
        norm = next((one for name in NORMS if (one := getattr(inner, name, None)) is not None), None)
        if norm is None:
            raise BaseMismatch(
                f"the norm before the head of a {type(model).__name__} goes by none of the names {', '.join(NORMS)}: "
                "read without it"
            )
        given = norm(given)
    scores: Tensor = head(given)
    return scores.float()
