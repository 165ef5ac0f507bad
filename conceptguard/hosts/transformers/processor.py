"""A session as transformers' own logits processors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from ...errors import GuardError

if TYPE_CHECKING:
    from ...protocols import SpeakingSession


class GuardProcessor(LogitsProcessor):
    """What ``generate`` asks about every token."""

    def __init__(self, session: SpeakingSession):
        self.session = session

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self.session.process(input_ids, scores)


class Processors(LogitsProcessorList):
    """A policy as transformers' own list of processors; more may be appended. Made by ``logits_processor``."""

    session: SpeakingSession

    @property
    def receipt(self) -> Any:
        """What every guard did to the last generation."""
        return self.session.receipt


def asks(session: SpeakingSession, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of ``generate`` asks a session already."""
    given = kwargs.get("logits_processor") or []
    return any(isinstance(one, GuardProcessor) and one.session is session for one in given)


def looks_back(model: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of ``generate`` gives the model's own scores, too, or texts that ended before the others: what was
    closed at every token is then asked about at the end."""
    configs = (kwargs.get("generation_config"), model.generation_config)

    def most(name: str) -> int:
        return max(int(given or 0) for given in (kwargs.get(name), *(getattr(config, name, 0) for config in configs)))

    return most("output_logits") > 0 or most("num_beams") > 1


def with_guards(session: SpeakingSession, original: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
    """What ``generate`` gives with the guards at every token. Raises GuardError unless they were asked about each.

    What they closed is closed in raw scores (``output_logits``) as well: it could be read off them.
    """
    given, fill = kwargs.get("logits_processor") or [], _fill(kwargs)
    more: dict[str, Any] = {"logits_processor": Processors([*given, GuardProcessor(session)])}
    if (streamer := kwargs.get("streamer")) is not None:
        prompts = kwargs.get("input_ids") if kwargs.get("inputs") is None else kwargs["inputs"]
        more["streamer"] = _Proved(session, streamer, fill, prompts)
    out = original(**{**kwargs, **more})
    texts = out if isinstance(out, Tensor) else getattr(out, "sequences", None)
    if not isinstance(texts, Tensor) or texts.dim() != 2:
        raise GuardError(
            f"generate() gave a {type(out).__name__} without rows of ids, so that nobody knows whether the guards were "
            "asked about them: use generate() without custom_generate"
        )
    session.prove(texts, fill)
    if getattr(out, "logits", None) is not None:
        _close(session, out, texts)
    return out


def _fill(kwargs: Mapping[str, Any]) -> set[int]:
    """Ids that this call ends texts with and fills them up with, besides the model's own."""
    config = kwargs.get("generation_config")
    found: set[int] = set()
    for name in ("eos_token_id", "pad_token_id"):
        for given in (kwargs.get(name), getattr(config, name, None)):
            found |= set(torch.as_tensor([] if given is None else given).flatten().long().tolist())
    return found


def _close(session: SpeakingSession, out: Any, texts: Tensor) -> None:
    """Take what guards closed out of the model's own scores, a tensor [rows, vocabulary] for every step."""
    account, begin = session.account, texts.shape[1] - len(out.logits)
    try:
        for step, scores in enumerate(out.logits):
            for row in range(len(scores)):
                if hasattr(out, "beam_indices"):  # rows are those of the step
                    closed = account.order[step].tokens(row)
                else:
                    closed = account.closed_after(session.whole(texts[row : row + 1, : begin + step])[0])
                scores[row, torch.from_numpy(closed).to(scores.device)] = -torch.inf
    except (KeyError, IndexError):
        raise GuardError(
            "output_logits gives raw scores that guards were not asked about, and what they closed could be read off "
            "them: leave it out"
        ) from None


class _Proved:
    """A streamer that is given the caller's prompts, what guards were asked about and left open, and nothing else."""

    def __init__(self, session: SpeakingSession, streamer: Any, fill: Collection[int], prompts: Tensor | None):
        self._session, self._streamer, self._fill, self._prompts = session, streamer, fill, prompts
        self._texts: Tensor | None = None  # None: the next put is what generation begins with
        self._held: list[Tensor] = []

    def put(self, value: Tensor) -> None:
        """What ``generate`` gives: what it begins with, then tokens. Raises GuardError for what was not asked about."""
        self._held.append(value)
        if self._texts is None:
            self._texts = value
            if self._prompts is None or not torch.equal(value, self._prompts.cpu()):
                return  # not the caller's: it leaves with the first token
        else:
            self._texts = torch.cat([self._texts, value.reshape(len(self._texts), -1)], 1)
            self._session.prove(self._texts, self._fill, last=False)
        for one in self._held:
            self._streamer.put(one)
        self._held = []

    def end(self) -> None:
        """No more will come."""
        self._streamer.end()
