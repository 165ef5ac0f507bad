"""Taking text back: a sentence that a guard rejects is cut off, or a word that it regrets, and its row goes on from
there another way.

``generate`` cannot unsay a token. So a row is stopped there, and generated again from the sentence's or word's first
token on, which it may not begin with any more; the other rows are left alone. Sentences of beam search are judged when
it has ended. Words are taken back where that can be done, and no error where it cannot: they are forbidden anyway.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from ...errors import GuardError
from ...generation.decoding import Sentence
from ...receipt import TakenBack
from .processor import with_guards

if TYPE_CHECKING:
    from ...host import TextHost
    from ...protocols import SpeakingSession

_ENDS = re.compile(r"(?<=[.!?\u2026])[\"')\]\u201d\u2019]*(?=\s)|(?<=[\u3002\uff01\uff1f])|(?=\n)")
WORDS = 8  # words of one text that are taken back; then the row goes on as it may
_OWN = ("past_key_values", "cache", "cache_params", "inputs_embeds", "custom_generate", "prompt_lookup_num_tokens")
_DRAFTS = ("assistant_model", "assistant_early_exit", "use_mtp", "speculation_type")
# A row that goes on by itself would be another one to these, and say again what it has said.
_ASKED = ("logits_processor", "prefix_allowed_tokens_fn")


def sentences(text: str, ended: bool) -> Iterator[tuple[int, str]]:
    """(place of its first character, sentence) of the finished sentences; ``ended``: the last one is finished, too."""
    begin = 0
    for match in _ENDS.finditer(text):
        if found := text[begin : match.end()].strip():
            yield begin + text[begin:].index(found[0]), found
        begin = match.end()
    if ended and (found := text[begin:].strip()):
        yield begin + text[begin:].index(found[0]), found


class Backtracking:
    """One ``generate`` call under guards that read sentences. Rows are lists of ids, without the prompt."""

    def __init__(self, session: SpeakingSession, host: TextHost, original: Callable[..., Any]):
        self._session, self._host, self._original = session, host, original
        self._reads = session.has("check_sentence")
        self._passed: set[tuple[int, str, str]] = set()
        self._held: _Held | None = None

    def __call__(self, kwargs: dict[str, Any]) -> Any:
        """What ``generate`` would give: sequences, where text can be taken back.

        Raises GuardError for options with which it cannot, for guards that read sentences.
        """
        plain, kwargs = kwargs, dict(kwargs)
        config = self._configured(kwargs)
        if config is None:
            return with_guards(self._session, self._original, plain)
        if (streamer := kwargs.pop("streamer", None)) is not None:
            self._held = _Held(streamer)
        out, regrets = self._run(config, kwargs, True)
        begin = self._session.begin
        rows = [self._checked(row, ids[begin:].tolist(), regrets.get(row), ids[:begin], len(out), config, kwargs)
                for row, ids in enumerate(out)]  # fmt: skip
        if self._held is not None:
            self._held.end(rows[0])
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
        if not self._reads:
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

    def _run(self, config: Any, kwargs: dict[str, Any], revocable: bool) -> tuple[Tensor, dict[int, tuple[Any, int]]]:
        """One run of ``generate``, and which of its rows regret a word."""
        session = self._session
        stopping = StoppingCriteriaList(kwargs.get("stopping_criteria") or [])
        if (config.num_beams or 1) == 1:
            stopping.append(_Stop(self))
        if self._held is not None:
            self._held.begin()
        more = {"streamer": self._held} if self._held is not None else {}
        given = {**kwargs, "stopping_criteria": stopping, "generation_config": config, **more}
        session.regrets = {}
        session.revocable = revocable and (config.num_beams or 1) == 1 and kwargs.get("assistant_model") is None
        try:
            return with_guards(session, self._original, given), session.regrets
        finally:
            session.revocable = False

    def _checked(
        self, row: int, ids: list[int], regret: tuple[Any, int] | None, prompt: Tensor, rows: int, config: Any,
        kwargs: dict[str, Any],
    ) -> list[int]:  # fmt: skip
        """A row without rejected sentences and regretted words."""
        taken = words = 0
        banned: dict[tuple[int, ...], set[int]] = {}
        while True:
            bad = self.first_bad(row, ids, ended=regret is None) if self._reads else None
            if bad is None and regret is not None and self._held is not None and regret[1] < self._held.given:
                # A phrase of several words began before what was heard: it is not said, and half of it stays.
                regret[0].act.notes.append(f"row {row} keeps words that had been heard before they were regretted")
                room = None if config.max_new_tokens is None else config.max_new_tokens - len(ids)
                if (room is not None and room < 1) or ids[-1] in self._host.ends:
                    return ids
                ids, regret = self._again(row, ids, prompt, rows, room, set(), regret[0], config, kwargs, False)
                continue
            if bad is not None:
                by, label, score, budget = bad.rejected[0]
                first, taken = bad.first, taken + 1
                by.act.taken_back.append(TakenBack(row, first, label, score))
            elif regret is not None:
                (by, first), words = regret, words + 1
                by.act.taken_back.append(TakenBack(row, first))
            else:
                return ids
            kept = ids[:first]
            room = None if config.max_new_tokens is None else config.max_new_tokens - len(kept)
            if bad is not None and (taken > budget or (room is not None and room < 1)):
                by.act.notes.append(f"row {row} ends before a sentence that was rejected, after {taken} taken back")
                return [*kept, *sorted(self._host.ends)[:1]]
            ban = banned.setdefault(tuple(kept), set())
            ban.add(ids[first])
            if self._held is not None:
                self._held.cut(len(kept))
            ids, regret = self._again(row, kept, prompt, rows, room, ban, by, config, kwargs, words < WORDS)

    def _again(
        self, row: int, kept: list[int], prompt: Tensor, rows: int, room: int | None, ban: set[int], by: Any,
        config: Any, kwargs: dict[str, Any], revocable: bool,
    ) -> tuple[list[int], tuple[Any, int] | None]:  # fmt: skip
        """The row generated again after ``kept``, and the word that it regrets."""
        config = copy.deepcopy(config)
        config.num_return_sequences, config.max_new_tokens = 1, room
        if config.min_new_tokens:
            config.min_new_tokens = max(config.min_new_tokens - len(kept), 0)
        said = torch.cat([prompt, prompt.new_tensor(kept)])[None]
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
                given["attention_mask"] = torch.cat([mask, mask.new_ones(1, len(kept))], 1)
        with self._session.resumed(row, said.shape[1], ban, by):
            out, regrets = self._run(config, given, revocable)
        return out[0, len(prompt) :].tolist(), regrets.get(0)

    def first_bad(self, row: int, ids: list[int], ended: bool) -> Sentence | None:
        """The first sentence of a row that is rejected; tokens before it may leave."""
        session = self._session
        stops = self._host.ends
        end = next((at for at, token in enumerate(ids) if token in stops), len(ids))
        ids, ended = ids[:end], ended or end < len(ids)
        text = self._host.vocabulary.decode(ids)
        row, safe = session.row(row), 0
        for place, said in sentences(text, ended):
            key = session.prompt_of(row), text[:place], said
            if key not in self._passed:
                sentence = session.sentence(said, text[:place], row)
                if sentence.rejected:
                    sentence.first = self._token_at(ids, place)
                    return sentence
                self._passed.add(key)
            safe = place + len(said)
        if self._held is not None:
            self._held.safe = len(ids) if ended else self._token_at(ids, safe)
        return None

    def _token_at(self, ids: list[int], place: int) -> int:
        """How many tokens stand wholly before a character of their text."""
        low, high = 0, len(ids) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if len(self._host.vocabulary.decode(ids[:middle])) <= place:
                low = middle
            else:
                high = middle - 1
        return max(low, 0)


class _Stop(StoppingCriteria):
    """Ends a row whose last sentence is rejected: what it would say next is for nothing."""

    def __init__(self, backtracking: Backtracking):
        self._backtracking = backtracking

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        backtracking, session = self._backtracking, self._backtracking._session
        bad = [row in session.regrets for row in range(len(input_ids))]
        if backtracking._reads:
            for row, ids in enumerate(input_ids[:, session.begin :].tolist()):
                piece = self._piece(ids[-1] if ids else -1)
                worth = piece is not None and (not piece.isascii() or piece[:1].isspace() or piece[-1:].isspace())
                bad[row] = bad[row] or (worth and backtracking.first_bad(row, ids, ended=False) is not None)
        elif backtracking._held is not None and not bad[0] and self._begins_word(int(input_ids[0, -1])):
            backtracking._held.safe = input_ids.shape[1] - session.begin - 1
        return torch.tensor(bad, device=input_ids.device)

    def _begins_word(self, token: int) -> bool:
        return (self._piece(token) or b" ")[:1].isspace()

    def _piece(self, token: int) -> bytes | None:
        pieces = self._backtracking._host.vocabulary.pieces
        return pieces[token] if 0 <= token < len(pieces) else b""


class _Held:
    """A streamer that gets tokens when the sentence they are in has been read. One row, as transformers' streamers."""

    def __init__(self, streamer: Any):
        self._streamer = streamer
        self._tokens: list[int] = []
        self.given = self.safe = 0  # how many were heard, how many may be
        self._prompt = True  # the next put is what generation begins with
        self._told = False

    def begin(self) -> None:
        """Another run of ``generate`` begins."""
        self._prompt = True

    def put(self, value: Tensor) -> None:
        """What ``generate`` gives: the prompt, then tokens."""
        if self._prompt:
            if not self._told:
                self._streamer.put(value)
            self._prompt, self._told = False, True
            return
        self._tokens += value.flatten().tolist()
        self._give(self.safe)

    def cut(self, kept: int) -> None:
        """Forget tokens from a place on."""
        del self._tokens[kept:]

    def end(self, row: list[int] | None = None) -> None:
        """The row as it is at last; ``generate`` ends every run, without one."""
        if row is not None:
            self._tokens = row
            self._give(len(row))
            self._streamer.end()

    def _give(self, upto: int) -> None:
        for token in self._tokens[self.given : upto]:
            self._streamer.put(torch.tensor([token]))
        self.given = max(self.given, min(upto, len(self._tokens)))
