"""Taking text back in ``generate``, which cannot unsay a token: a row is stopped there, and generated again from there.

Sentences of beam search are judged when it has ended. Words are taken back where that can be done, and no error where
it cannot: they are forbidden anyway.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from ...errors import GuardError
from ...sessions.taking_back import Again, Held, Regret, TakingBack
from .processor import with_guards

if TYPE_CHECKING:
    from ...host import TextHost
    from ...protocols import SpeakingSession

_OWN = ("past_key_values", "cache", "cache_params", "inputs_embeds", "custom_generate", "prompt_lookup_num_tokens")
_DRAFTS = ("assistant_model", "assistant_early_exit", "use_mtp", "speculation_type")
# A row that goes on by itself would be another one to these, and say again what it has said.
_ASKED = ("logits_processor", "prefix_allowed_tokens_fn")


class Backtracking:
    """One ``generate`` call under guards that read sentences. Rows are lists of ids, without the prompt."""

    def __init__(self, session: SpeakingSession, host: TextHost, original: Callable[..., Any]):
        self._session, self._host, self._original = session, host, original
        self._taking = TakingBack(session, host)

    def __call__(self, kwargs: dict[str, Any]) -> Any:
        """What ``generate`` would give: sequences, where text can be taken back.

        Raises GuardError for options with which it cannot, for guards that read sentences.
        """
        plain, kwargs = kwargs, dict(kwargs)
        config = self._configured(kwargs)
        if config is None:
            return with_guards(self._session, self._original, plain)
        if (streamer := kwargs.pop("streamer", None)) is not None:
            self._taking.held = Held(streamer)
        out, regrets = self._run(config, kwargs, True)
        begin = self._session.begin
        rows = []
        for row, ids in enumerate(out):
            again = partial(self._again, row, ids[:begin], len(out), config, kwargs)
            rows.append(self._taking.checked(row, ids[begin:].tolist(), regrets.get(row), config.max_new_tokens, again))
        if self._taking.held is not None:
            self._taking.held.end(rows[0])
        pad = config.pad_token_id if config.pad_token_id is not None else min(self._host.vocabulary.stops, default=0)
        longest = max(map(len, rows))
        return torch.cat([out[:, :begin], out.new_tensor([ids + [pad] * (longest - len(ids)) for ids in rows])], 1)

    def _configured(self, kwargs: dict[str, Any]) -> Any:
        """One generation config of all that was given; what remains in ``kwargs`` goes to the model. None where words
        cannot be taken back."""
        config = copy.deepcopy(kwargs.pop("generation_config", None) or self._host.model.generation_config)
        left = config.update(**kwargs)
        for name in set(kwargs) - set(left):
            del kwargs[name]
        given = [name for name in _OWN if kwargs.get(name) is not None or getattr(config, name, None) is not None]
        given += [name for name in _ASKED if kwargs.get(name)]
        if config.return_dict_in_generate:
            given.append("return_dict_in_generate")
        if not self._taking.reads:
            given += [name for name in _DRAFTS if kwargs.get(name) or getattr(config, name, None)]
            if (config.num_beams or 1) > 1:
                given.append("num_beams")
            if given:
                self._session.takes_nothing_back(given)
            return None if given else config
        if given:
            raise GuardError(
                f"a guard of policy '{self._session.policy.name}' takes sentences back, which cannot be done with "
                f"{', '.join(given)}: leave it out"
            )
        return config

    def _run(self, config: Any, kwargs: dict[str, Any], revocable: bool) -> tuple[Tensor, dict[int, Regret]]:
        """One run of ``generate``, and which of its rows regret a word."""
        session = self._session
        stopping = StoppingCriteriaList(kwargs.get("stopping_criteria") or [])
        if (config.num_beams or 1) == 1:
            stopping.append(_Stop(self._taking, self._session))
        if self._taking.held is not None:
            self._taking.held.begin()
        more = {"streamer": self._taking.held} if self._taking.held is not None else {}
        given = {**kwargs, "stopping_criteria": stopping, "generation_config": config, **more}
        session.regrets = {}
        session.revocable = revocable and (config.num_beams or 1) == 1 and kwargs.get("assistant_model") is None
        try:
            return with_guards(session, self._original, given), session.regrets
        finally:
            session.revocable = False

    def _again(
        self, row: int, prompt: Tensor, rows: int, config: Any, kwargs: dict[str, Any], how: Again
    ) -> tuple[list[int], Regret | None]:
        """The row generated again, and the word that it regrets."""
        config = copy.deepcopy(config)
        config.num_return_sequences, config.max_new_tokens = 1, how.room
        if config.min_new_tokens:
            config.min_new_tokens = max(config.min_new_tokens - len(how.kept), 0)
        said = torch.cat([prompt, prompt.new_tensor(how.kept)])[None]
        batch = len(next(v for v in kwargs.values() if isinstance(v, Tensor))) if kwargs else rows
        source = row // max(rows // batch, 1)
        given = {name: value[source : source + 1] if isinstance(value, Tensor) and len(value) == batch else value
                 for name, value in kwargs.items()}  # fmt: skip
        if self._host.encodes:
            given["decoder_input_ids"] = said
        else:
            given.pop("inputs", None)
            given["input_ids"] = said
            if (mask := given.get("attention_mask")) is not None:
                given["attention_mask"] = torch.cat([mask, mask.new_ones(1, len(how.kept))], 1)
        with self._session.resumed(row, said.shape[1], how.ban, how.by):
            out, regrets = self._run(config, given, how.revocable)
        return out[0, len(prompt) :].tolist(), regrets.get(0)


class _Stop(StoppingCriteria):
    """Ends a row whose last sentence is rejected: what it would say next is for nothing."""

    def __init__(self, taking: TakingBack, session: SpeakingSession):
        self._taking, self._session = taking, session

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        session = self._session
        bad = [
            self._taking.stops(row, ids, row in session.regrets)
            for row, ids in enumerate(input_ids[:, session.begin :].tolist())
        ]
        return torch.tensor(bad, device=input_ids.device)
