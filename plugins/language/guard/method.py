"""GUARD: a prompt that is after something forgotten goes on without its words (Deng et al., 2025).

A classifier says which prompts those are (``wording``); all others are left alone, so that their text is the
unguarded one, token by token. For a forget prompt the best 2 x 7 candidates for the next token are looked
at, as the paper does in a beam search of width 7: one that completes a span of a forget answer is out, one whose last
word means nearly the same is out, and the others lose as much as they mean of it. What has not been looked at is not
said. Greedy decoding, sampling and beams of another width go the same way.

A prompt may be after something forgotten and name nobody, by an alias and a fact. A classifier by words therefore reads
answers as well, and one that names what is to be forgotten is filtered from there on (ours).

It is a filter: the model still knows, and the artifact holds what must not be said, as hashes and vectors
(``guard_spans``). Neutral uses of the same words are lost as well, in answers to forget prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from conceptguard.errors import ArtifactError, BaseMismatch, GuardError
from conceptguard.making.task import Learned, Task
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.text import sentence_encoder
from conceptguard.text.letters import complete
from conceptguard.text.lineage import Follow

from ..classifier.wording import Wording
from .make import ANCHOR, GuardMakeSettings, learn_forget_set
from .spans import Spans
from .states import LAYER, StatesClassifier
from .words import Meanings, last_words, similarity

if TYPE_CHECKING:
    from conceptguard.generation.decoding import Asked, Decoding

SAME_MODEL = 0.98  # cosine of the states of one text: other weights of the same shape come out far below
_TAIL = 64  # bytes of an answer in which a name is looked for, as each of its words ends
_NONE = torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0, dtype=torch.bool)


class GuardSettings(Settings):
    """What is compared, and with how much.

    match: by tokens, by meaning, or both
    delta: the similarity from which a word means the same as a forbidden one
    threshold: from which probability a prompt counts as one of the forget set
    candidates: how many next tokens are looked at, and more only if none of them is left: 2 x the width of the beam
    nearest: how many forget answers, those nearest to the prompt, tell what is forbidden (1 as published); default: all
    """

    match: Literal["both", "tokens", "meaning"] = "both"
    delta: float = Field(default=0.5, gt=0, le=1)
    threshold: float = Field(default=0.5, gt=0, lt=1)
    candidates: int = Field(default=14, ge=1)
    nearest: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class _Said:
    """The end of what a row says, and whether it has named what is to be forgotten."""

    tail: bytes
    named: bool


class GUARD(Method):
    """Text: sees whether a prompt asks for what is to be forgotten, and filters the answer by tokens and meaning.

    Its artifact is one forget set: a classifier, spans and meanings.
    """

    name = "guard"
    Settings = GuardSettings
    MakeSettings = GuardMakeSettings
    _wording: Wording | None = None

    def __init__(self, *args: Any):
        super().__init__(*args)
        assert self.artifact is not None
        if self.settings.match != "tokens" or self.settings.nearest:
            sentence_encoder.require()
        tensors = dict(self.artifact.tensors())
        try:
            if not all(bool(t.isfinite().all()) for t in tensors.values()):
                raise ValueError("not all of its numbers are numbers")
            self._logit = self._classifier(
                {n.removeprefix("classifier."): t for n, t in tensors.items() if n.startswith("classifier.")}
            )
            self.spans, self.meanings = Spans.read(tensors), Meanings.read(tensors)
        except (KeyError, RuntimeError, IndexError, ValueError) as error:
            raise ArtifactError(f"{self.artifact.ref} is no forget set ({error}): make it again") from None
        self._active: dict[int, frozenset[int] | None] = {}
        self._forbidden: dict[int, Tensor] = {}
        self._told: set[int] = set()  # prompts whose answers were read as forget
        self._least = math.log(self.settings.threshold / (1 - self.settings.threshold))
        self._said: Follow[_Said | None] = Follow(lambda: None, self._advance)

    def _classifier(self, tensors: dict[str, Tensor]) -> Callable[[list[int], str], float]:
        """A prompt's ids and text -> its logit."""
        if "weights" in tensors:
            self._wording = wording = Wording.read(tensors)
            return lambda ids, text: wording.logit(text)
        self._check_weights(tensors.pop("anchor"))
        net = StatesClassifier.read(tensors)
        return lambda ids, text: float(net(self.host.pool([ids], LAYER).cpu()))

    def _check_weights(self, anchor: Tensor) -> None:
        """Hidden states of other weights mean something else to a classifier that reads them."""
        here = self.host.pool([self.host.tokenizer(ANCHOR).input_ids], LAYER)[0].cpu()
        if here.shape != anchor.shape or torch.cosine_similarity(here, anchor.float(), 0) < SAME_MODEL:
            assert self.artifact is not None
            raise BaseMismatch(
                f"{self.artifact.ref} reads the hidden states of {self.artifact.manifest.base.family}, and this model "
                "has other weights: make one for it with `conceptguard make guard`"
            )

    @hookimpl
    def read_prompt(self, asked: Asked) -> None:
        """Which prompts are after something forgotten, and what must not be said to each."""
        prompts = [(ids, text) for ids, text in zip(asked.ids, asked.texts) if ids is not None and text is not None]
        if len(prompts) < len(asked.ids):
            raise GuardError("a prompt came as embeddings, which GUARD cannot read: pass token ids")
        # One by one: what is made of a prompt must not depend on what else is asked.
        scores = torch.tensor([self._logit(ids, text) for ids, text in prompts]).sigmoid().tolist()
        chosen = [i for i, score in enumerate(scores) if score >= self.settings.threshold]
        for i, score in enumerate(scores):
            asked.tell(self, i, "forget" if i in chosen else "retain", round(score, 4))
        self._active, self._told = dict.fromkeys(chosen), set()
        if chosen and self.settings.nearest:
            texts = [asked.texts[i] or "" for i in chosen]
            self._active = dict(zip(chosen, self.meanings.nearest(texts, self.settings.nearest)))
        self._forbidden = {i: self.meanings.forbidden(active) for i, active in self._active.items()}

    def _advance(self, said: _Said | None, token: int, first: bool) -> _Said | None:
        """Reads an answer word by word; of the prompt nothing, which was read as a whole."""
        if said is None and not first:
            return None
        said = said or _Said(b"", False)
        if said.named:
            return said
        pieces = self.host.vocabulary.pieces
        piece = (pieces[token] if token < len(pieces) else b"") or b""
        tail = said.tail + piece
        if len(tail) > _TAIL:
            tail = tail[-_TAIL:].partition(b" ")[2]  # what is left of a word may look like another
        ends = not piece.isalnum()  # and with it a word
        named = ends and self._wording is not None and self._wording.names(complete(tail)[0]) >= self._least
        return _Said(tail, named)

    def _named(self, decoding: Decoding) -> set[int]:
        """Rows whose answers have named what is to be forgotten, whatever was asked."""
        if self._wording is None or all(prompt in self._active for prompt in decoding.prompt_of):
            return set()
        rows = {row for row, said in enumerate(self._said(decoding)) if said is not None and said.named}
        for prompt in sorted({decoding.prompt_of[row] for row in rows} - set(self._active) - self._told):
            self._told.add(prompt)
            decoding.asked.tell(self, prompt, "forget")
        return rows

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        """Candidates of the rows that answer a forget prompt, or have named what is to be forgotten themselves."""
        named = self._named(decoding)
        rows = [
            (row, prompt) for row, prompt in enumerate(decoding.prompt_of)
            if (prompt in self._active or row in named) and decoding.live(row)
        ]  # fmt: skip
        if self.settings.match != "tokens" and len(rows) > 1:
            self._foresee(decoding, rows)
        for row, prompt in rows:
            self._filter(decoding, row, prompt)

    def _foresee(self, decoding: Decoding, rows: list[tuple[int, int]]) -> None:
        """Encode the words of all rows' candidates at once: those of one row are few, and a call costs more."""
        some = decoding.scores[[row for row, _ in rows]].topk(min(self.settings.candidates, decoding.scores.shape[1]))
        words = []
        for (row, prompt), tokens in zip(rows, some.indices.tolist()):
            if len(self._words(prompt)):
                words += last_words(*self._sight(decoding, row, prompt, tokens))
        sentence_encoder.encode_words([word for word in words if word is not None])

    def _words(self, prompt: int) -> Tensor:
        """The meanings that must not be said to a prompt: to one that was not read as forget, all of them."""
        return self._forbidden.get(prompt, self.meanings.words)

    @staticmethod
    def _sight(decoding: Decoding, row: int, prompt: int, tokens: list[int]) -> tuple[str, list[str]]:
        """All text before the candidates, and theirs; where a letter is half said, with that letter."""
        before, rest = decoding.so_far(row)
        pieces = [complete(rest + (decoding.vocabulary.pieces[t] or b""))[0] for t in tokens]
        return f"{decoding.asked.texts[prompt] or ''}{before}", pieces

    def _filter(self, decoding: Decoding, row: int, prompt: int) -> None:
        scores = decoding.scores[row]
        open_ = int((scores > -torch.inf).sum())
        looked, k = 0, self.settings.candidates
        some, similar, out = _NONE
        while looked < open_ and bool(out.all()):
            some = scores.topk(min(k, open_)).indices[looked:]
            similar, out = self._look(decoding, row, prompt, some.tolist())
            looked, k = looked + len(some), 4 * k
        here = out.to(some.device)
        decoding.keep(some, row)
        if out.any():
            decoding.forbid(self, {row: some[here]})
        if float(similar[~out].sum()):
            decoding.penalise(self, some[~here], similar[~out], row)

    def _look(self, decoding: Decoding, row: int, prompt: int, tokens: list[int]) -> tuple[Tensor, Tensor]:
        """How much each candidate means of what is forbidden, and whether it is out: [tokens] each."""
        similar, out = torch.zeros(len(tokens)), torch.zeros(len(tokens), dtype=torch.bool)
        before, pieces = self._sight(decoding, row, prompt, tokens)
        if self.settings.match != "tokens":
            similar = similarity(last_words(before, pieces), self._words(prompt))
            out |= similar >= self.settings.delta
        if self.settings.match != "meaning":
            out |= torch.tensor(self.spans.matched(before, pieces, self._active.get(prompt)))
        return similar, out

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Train the classifier and store what must not be said; see ``make``."""
        return learn_forget_set(task)
