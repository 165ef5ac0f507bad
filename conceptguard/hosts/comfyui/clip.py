"""A guarded CLIP: what it encodes is seen by guards that read prompts, and recognised later at the sampler.

It stands in for a comfy.sd.CLIP: whatever else a node does with one, it does with the CLIP itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...generation.conditioning import Encoded, Prompts
from .conditions import Condition

if TYPE_CHECKING:
    from ...protocols import DrawingSession
    from .model import GuardedModel
    from .text import Seen


class _Tokens(dict):  # type: ignore[type-arg]
    """What ``tokenize`` gave, which knows the text that it is of."""

    text: str


class GuardedCLIP:
    """A comfy.sd.CLIP under a session. Raises what guards raise: Refused, Clarification, GuardError."""

    def __init__(self, clip: Any, session: DrawingSession):
        object.__setattr__(self, "_clip", clip)
        object.__setattr__(self, "_session", session)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clip, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._clip, name, value)

    def clone(self) -> GuardedCLIP:
        """As of a CLIP, guarded too."""
        return GuardedCLIP(self._clip.clone(), self._session)

    def tokenize(self, text: str, *args: Any, **kwargs: Any) -> Any:
        """As of a CLIP."""
        tokens = _Tokens(self._clip.tokenize(text, *args, **kwargs))
        tokens.text = text
        return tokens

    def encode(self, text: str) -> Tensor:
        """As of a CLIP."""
        return self.encode_from_tokens(self.tokenize(text))  # type: ignore[no-any-return]

    def encode_from_tokens(self, tokens: Any, return_pooled: Any = False, return_dict: bool = False) -> Any:
        """As of a CLIP, after every guard has read what is encoded."""

        def encode(tokens: Any) -> Any:
            return self._clip.encode_from_tokens(tokens, return_pooled=return_pooled, return_dict=return_dict)

        def cond(out: Any) -> list[Tensor]:
            return [out["cond"] if return_dict else out[0] if return_pooled else out]

        return self._session.run(lambda: _encode(self._session, self._clip, tokens, encode, cond))

    def encode_from_tokens_scheduled(self, tokens: Any, *args: Any, **kwargs: Any) -> Any:
        """As of a CLIP, after every guard has read what is encoded."""

        def encode(tokens: Any) -> Any:
            return self._clip.encode_from_tokens_scheduled(tokens, *args, **kwargs)

        def conds(out: Any) -> list[Tensor]:
            return [entry[0] for entry in out]

        return self._session.run(lambda: _encode(self._session, self._clip, tokens, encode, conds))


def unguarded_clip(clip: Any) -> Any:
    """The CLIP that a guarded one stands in for; any other as it is."""
    return clip._clip if isinstance(clip, GuardedCLIP) else clip


def _encode(
    session: DrawingSession, clip: Any, tokens: Any, encode: Callable[[Any], Any], conds: Callable[[Any], list[Tensor]]
) -> Any:
    """Under the session: let guards read, encode with their terms, remember what came out."""
    host: GuardedModel = session.host  # type: ignore[assignment]
    texts = host.texts.of(clip)
    given = texts.said(tokens)
    text = getattr(tokens, "text", given[0])
    plain, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    seen = texts.remember(text, tokens, plain, given)
    if session.has("encode_prompt"):
        changed = _ask(session, texts, seen, plain, pooled)
        if changed != text:
            text, tokens = changed, clip.tokenize(changed)
            plain = clip.encode_from_tokens(tokens)
            given = (changed,) * len(given)
            seen = texts.remember(text, tokens, plain)
    opened = _open(session, host, texts, seen, tokens)
    try:
        out = encode(tokens)
        for prefix in opened:
            session.banks.verify(prefix)
    finally:
        session.close()
    for cond in conds(out) if opened else ():
        texts.remember(text, tokens, cond, given, under=session)
    return out


def _ask(session: DrawingSession, texts: Any, seen: Seen, cond: Tensor, pooled: Tensor | None) -> str:
    """The text after every guard has read it. Which branch it is for is known at the sampler only."""

    def encode(new: list[str]) -> Encoded:
        made = texts.encode(new)
        embeds = torch.nn.functional.pad(made.embeds, (0, 0, 0, max(cond.shape[1] - made.embeds.shape[1], 0)))
        return Encoded(embeds[:, : cond.shape[1]], made.ids, made.pooled)

    ids = None if seen.ids is None else [i for window in seen.ids for i in window]
    prompts = Prompts([seen.text], [ids], cond, pooled, ["conditional"], encode)
    session.encode_prompt(prompts)
    return prompts.texts[0] or seen.text


def _open(session: DrawingSession, host: GuardedModel, texts: Any, seen: Seen, tokens: Any) -> list[str]:
    """Open terms beside the text encoders' own layers as far as the text says; gives the components that have some."""
    prefixes = [p for p in session.banks.prefixes() if p.startswith("text_encoder")]
    if not prefixes:
        return []
    text = Condition("", seen.embeds, None if seen.ids is None else [seen])
    gates = session.gate_bank(host.denoiser_name, host.read)(text.read(host.family)[None], [text.ids])
    opened = []
    patcher = texts.clip.patcher
    hooks = patcher.forced_hooks.hooks if patcher.forced_hooks is not None else ()
    for prefix in prefixes:
        if host.weight_patches is not None:
            host.weight_patches.check(prefix, patcher, hooks)
        windows = tokens[host.key_of(prefix)]
        # Weights are measured from an empty window, which ComfyUI encodes beside the others.
        weighted = any(entry[1] != 1.0 for window in windows for entry in window)
        rows = gates.expand(len(windows) + weighted, -1).clone()
        if weighted:
            rows[-1] = 0
        session.banks.set(prefix, rows)
        session.banks.start(prefix)
        opened.append(prefix)
    for method, gate in zip(session.methods_with_terms, gates[0].tolist()):
        if gate:
            method.act.notes.append(f"open {gate:.2f} in {', '.join(opened)} on {seen.text!r}")
    return opened
