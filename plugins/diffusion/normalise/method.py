"""Normalise: a prompt is read as a person reads it before any guard, and any gate, sees it.

Text encoders know a few spellings of a word, and gates know what encoders know. Where a prompt writes one of the
policy's phrases with look-alikes, digits, marks between its letters, letters said again, a slip of the pen or in
another language, the plain phrase takes its place, and the prompt is encoded so. All other prompts are left as they
are, to the last bit.
"""

from __future__ import annotations

from conceptguard.errors import GuardError, SessionError
from conceptguard.generation.conditioning import Prompts
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings

from .lexicon import translations
from .reading import Reader


class NormaliseSettings(Settings):
    """words: further words for a phrase of the concept, e.g. {cigarette: [ciggy, dart]}
    languages: also what the small lexicon knows of other languages
    typos: also words with a letter missing, too many, another or in its neighbour's place, unless they are words
    """

    words: dict[str, list[str]] = {}
    languages: bool = True
    typos: bool = True


class Normalise(Method):
    """Pictures: writes the concept's disguised words plainly, so that the policy's other guards see them.

    It opens nothing itself: other guards do.
    """

    name = "normalise"
    needs = "concept"
    Settings = NormaliseSettings

    def __init__(self, *args: object):
        super().__init__(*args)  # type: ignore[arg-type]
        settings = self.settings
        phrases = {
            phrase: [*settings.words.get(phrase, []), *(translations(phrase) if settings.languages else [])]
            for phrase in dict.fromkeys([*self.own_concept().prompts, *settings.words])
        }
        self._reader = Reader(phrases, self._ordinary, settings.typos)
        self._words: dict[str, bool] = {}

    def _ordinary(self, word: str) -> bool:
        """Whether the encoder's tokenizer has a word as a whole, as it has those that people use. Where nobody can
        tell, every word is."""
        if word not in self._words:
            try:
                self._words[word] = len(self.host.tokens([word], whole=True)[0]) == 1
            except SessionError:
                self._words[word] = True
        return self._words[word]

    @hookimpl(tryfirst=True)
    def encode_prompt(self, prompts: Prompts) -> None:
        """Every prompt and negative prompt, before other guards read it. Raises GuardError for embeddings of a prompt
        without their text."""
        for row, text in enumerate(prompts.texts):
            if text is None and prompts.branches[row] == "conditional":
                raise GuardError(
                    "normalise reads the words of a prompt, and embeddings came without theirs: pass the text "
                    "instead, or leave normalise out of the policy"
                )
            if not text:
                continue
            plain, found = self._reader.read(text)
            if found:
                prompts.rewrite(row, plain)
                for one in found:
                    note = f"read {one.phrase!r} in {text[one.begin : one.end]!r}"
                    if note not in self.act.notes:
                        self.act.notes.append(note)
