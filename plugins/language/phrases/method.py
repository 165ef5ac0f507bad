"""A bank of phrases that must not be said, matched on text: up to 100,000 and more, at the same cost a token.

A phrase is found whatever its case, spacing and tokens, with look-alikes of other scripts, without the marks that a
script may leave out, with marks or a new line inside of its words, spelled out letter by letter, and also where a
prompt has begun it. Signs belong to it: "C++" is not "C", and "U.S." is no "us". It is closed before its last token;
where its last word comes after CONTEXT letters of the phrase, before that word. Of a phrase that is one word of several
tokens half may have been said by then: to refuse its first token everywhere would take " the" for "theft". So,
attached, where the likeliest token would go on with a word to a phrase, the word is taken back and another one said; a
mere logits processor asks the model before a word begins whether it would end as a phrase (see ``ahead``).

A phrase is whole words: "pen" is no part of "penguin". Where tokens end inside of a word this is decided at the token:
what is spelled "pen" + "guin" is closed as well.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from conceptguard.errors import PolicyError
from conceptguard.generation.decoding import Decoding, Vocabulary
from conceptguard.making.task import Learned, Task
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.text.lineage import Follow

from .ahead import avoid
from .bank import BROKEN, Bank
from .tokens import NOTHING, PhraseTokens, State

TENSOR = "phrases"
HALF = "cannot ask the model ahead here: of a phrase that is one word, half may be said"
FAMILY = "text"  # of artifacts that serve every language model
_known: weakref.WeakKeyDictionary[Vocabulary, weakref.WeakValueDictionary[tuple[str, ...], PhraseTokens]] = (
    weakref.WeakKeyDictionary()
)


class PhrasesSettings(Settings):
    """file: a text file with one phrase a line, beside the policy; lines that begin with # are comments"""

    file: str = ""


class MakeSettings(Settings):
    """file: a text file with one phrase a line, as in a policy"""

    file: str = Field(min_length=1)


class Phrases(Method):
    """Text: never says a phrase of a list, however it is written.

    Forbids what would finish a phrase of the concept's prompts, of a file, or of an artifact.
    """

    name = "phrases"
    needs = "nothing"
    regrets = True
    Settings = PhrasesSettings
    MakeSettings = MakeSettings
    family = FAMILY

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """A bank for every language model: the file's phrases, once each."""
        found = list(dict.fromkeys(read_phrases(Path(task.settings.file))))
        checked(Bank(found), f"phrases {task.settings.file}")
        data = torch.frombuffer(bytearray("\n".join(found).encode()), dtype=torch.uint8)
        return Learned({TENSOR: data}, {"phrases": len(found)})

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.tokens = self._shared(tuple(phrases_of(self)))
        self._states = Follow(lambda: self.tokens.start, self.tokens.advance)

    def _shared(self, phrases: tuple[str, ...]) -> PhraseTokens:
        """Those of another guard that has the same phrases and vocabulary: a server has a session for each text that is
        being said, and the bank once."""
        known = _known.setdefault(self.host.vocabulary, weakref.WeakValueDictionary())
        found = known.get(phrases)
        if found is None:
            bank = checked(Bank(phrases), f"guard '{self.guard.label}'")
            found = known[phrases] = PhraseTokens(bank, self.host.vocabulary)
        return found

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        """Constant work a row: its state in the bank moves by one token, and knows what would finish a phrase."""
        tokens = self.tokens
        states = self._states(decoding)
        if not decoding.last:
            states = [tokens.fresh(state) for state in states]
        meant: list[int] = []
        if decoding.ahead is not None:
            meant = [*decoding.taken[:1]] * len(states) or decoding.scores.argmax(1).tolist()
        decoding.forbid(self, tokens.always)
        own = {}
        for row, state in enumerate(states):
            closing = tokens.closing(state) if state.closing is None else state.closing
            if closing is not NOTHING:
                if decoding.ahead is None and not decoding.revocable and tokens.halves(state):
                    # Half of a word will stand there, and the whole one may be glued to it.
                    state = self._states.put(row, tokens.fresh(state))
                    closing = tokens.closing(state)
                own[row] = closing
        if own:
            if decoding.revocable:
                self._regret(decoding, states, own)
            decoding.forbid(self, own)
        if decoding.ahead is not None and not avoid(self, decoding, tokens, states, meant) and not decoding.revocable:
            self._tell(HALF)

    def _tell(self, note: str) -> None:
        if note not in self.act.notes:
            self.act.notes.append(note)

    def _regret(self, decoding: Decoding, states: list[State], closings: Mapping[int, np.ndarray]) -> None:
        """Where the likeliest token would go on with a word to a phrase, the word had better not begun."""
        likeliest = decoding.scores.argmax(1).tolist()
        for row, closing in closings.items():
            if states[row].gap < BROKEN and likeliest[row] in closing and not self.tokens.leads(likeliest[row]):
                said = decoding.ids[row, decoding.begin :].tolist()
                begun = next((at for at in reversed(range(len(said))) if self.tokens.leads(said[at])), 0)
                # Another letter in its place: unless the model is asked about it, another mark would only glue the word
                # to the one before.
                while not self.host.foresees and begun + 1 < len(said) and self.tokens.spaces(said[begun]):
                    begun += 1
                if said:
                    decoding.regret(self, row, begun)


def phrases_of(method: Method) -> list[str]:
    """What a guard is told not to let pass: its concept's prompts, the lines of its ``file``, its artifact's phrases.

    Raises PolicyError for a file that cannot be read, and for an artifact that holds none.
    """
    found = list(method.guard.concept.prompts) if method.guard.concept else []
    if method.settings.file:
        found += read_phrases(method.guard.beside(method.settings.file))
    if method.artifact:
        tensors = method.artifact.tensors()
        if TENSOR not in tensors or tensors[TENSOR].dtype != torch.uint8:
            raise PolicyError(f"{method.artifact.ref} holds no phrases: make it with `conceptguard make phrases`")
        found += bytes(tensors[TENSOR].numpy()).decode().splitlines()
    return found


def read_phrases(path: Path) -> list[str]:
    """One phrase a line. Raises PolicyError for a file that cannot be read."""
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(
            f"phrases file {path} cannot be read ({error}): give a text file, one phrase a line"
        ) from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def checked(bank: Bank, whose: str) -> Bank:
    """The bank. Raises PolicyError where a phrase of it, or all of it, can match nothing; warns of those that would
    match much more than they say."""
    if bank.empty:
        listed = ", ".join(map(repr, bank.empty[:3])) + (f" and {len(bank.empty) - 3} more" if bank.empty[3:] else "")
        raise PolicyError(f"{whose}: {listed} without a letter or digit cannot be matched: take them out")
    if bank.short:
        listed = ", ".join(f"{phrase!r} is found as {left!r}" for phrase, left in list(bank.short.items())[:3])
        more = f" and {len(bank.short) - 3} more" if len(bank.short) > 3 else ""
        warnings.warn(f"{whose}: {listed}{more}, wherever that stands: spell them out, or take them out", stacklevel=2)
    if not len(bank):
        raise PolicyError(
            f"{whose} has no phrases: give a concept with prompts, a file with one phrase a line, or an artifact"
        )
    return bank
