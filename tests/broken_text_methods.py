"""Guards of text that break one promise each."""

from __future__ import annotations

from typing import Any

import torch

from conceptguard import Method, hookimpl
from conceptguard.generation.decoding import Decoding, Sentence
from conceptguard.text.lineage import Follow

WORD = " red cigarette"


class GoodText(Method):
    """Keeps every promise: the word is closed before its last token."""

    name = "good-text"
    needs = "nothing"

    def __init__(self, *args: Any):
        super().__init__(*args)
        (self.word,) = self.host.vocabulary.encode([WORD])
        self.said = Follow(lambda: (), self.advance)

    def advance(self, said: tuple[int, ...], token: int, first: bool) -> tuple[int, ...]:
        return (*said, token)[-len(self.word) :]

    def rows(self, decoding: Decoding) -> list[int]:
        before = self.word[:-1]
        return [row for row, said in enumerate(self.said(decoding)) if list(said[len(said) - len(before) :]) == before]

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        decoding.forbid(self, {row: self.word[-1:] for row in self.rows(decoding)})


class TextDoesNothing(GoodText):
    name = "text-does-nothing"

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        return None


class TaxesAll(GoodText):
    """Forbids what a row would say anyway, once."""

    name = "taxes-all"

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        if decoding.ids.shape[1] == decoding.begin + 2:
            decoding.forbid(self, {row: [int(s.argmax())] for row, s in enumerate(decoding.scores)})


class Remembers(GoodText):
    """Once it has acted, it acts on everybody."""

    name = "remembers"
    acted = False

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        rows = self.rows(decoding)
        decoding.forbid(self, {row: self.word[-1:] for row in rows})
        self.acted |= bool(rows)
        if self.acted and not rows:
            decoding.forbid(self, {0: [int(decoding.scores[0].argmax())]})


class FirstRow(GoodText):
    """Looks at one row only."""

    name = "first-row"

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        decoding.forbid(self, {row: self.word[-1:] for row in self.rows(decoding) if row == 0})


class ByRowNumber(GoodText):
    """Remembers which rows its first batch had the word's prompt in, and acts on these numbers ever after."""

    name = "by-row-number"
    numbers: list[int] | None = None

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        if self.numbers is None:
            self.numbers = [
                row for row, of in enumerate(decoding.prompt_of) if "sun" in (decoding.asked.texts[of] or "")
            ]
        decoding.forbid(self, {row: self.word[-1:] for row in self.rows(decoding) if row in self.numbers})


class HooksModel(GoodText):
    """Leaves a hook."""

    name = "hooks-model"

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.host.model.lm_head.register_forward_hook(lambda *_: None)


class StaysAlive(GoodText):
    """Is remembered by its class."""

    name = "stays-alive"
    alive: list[Any] = []

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.alive.append(self)


class SwallowsText(GoodText):
    """A wrapper around everyone's tokens that hides what the others raise."""

    name = "swallows-text"

    @hookimpl(wrapper=True)
    def process_logits(self, decoding: Decoding) -> Any:
        try:
            return (yield)
        except Exception:
            return []


class Silent(GoodText):
    """Writes scores by itself, and the receipt knows nothing."""

    name = "silent"

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        for row in self.rows(decoding):
            decoding.scores[row, self.word[-1]] = -torch.inf


class Liar(GoodText):
    """Tells of a place where nothing was."""

    name = "liar"

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        rows = self.rows(decoding)
        decoding.forbid(self, {row: self.word[-1:] for row in rows})
        for touch in self.act.touched:
            touch.position = 0


class TooLate(Method):
    """Reads sentences, and takes none back: what is streamed has been said."""

    name = "too-late"
    needs = "nothing"

    @hookimpl
    def check_sentence(self, sentence: Sentence) -> None:
        self.act.notes.append("read a sentence")


# method -> the check that must catch it
CAUGHT_BY = {
    TextDoesNothing: "it_acts",
    TooLate: "it_acts",
    TaxesAll: "no_guard_tax",
    Remembers: "no_guard_tax",
    FirstRow: "rows_are_separate",
    ByRowNumber: "another_batch",
    HooksModel: "no_trace",
    StaysAlive: "no_trace",
    SwallowsText: "guard_beside_that_raises",
    Silent: "receipt_tells_all",
    Liar: "receipt_is_true",
}
