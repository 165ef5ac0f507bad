"""A bank of phrases that must not be said, matched on text: up to 100,000 and more, at the same cost a token.

A phrase is found whatever its case, spacing and tokens, with look-alikes of other scripts, spelled out letter by
letter, and also where a prompt has begun it. It is closed before its last token; where its last word comes after
CONTEXT letters of the phrase, before that word, so that no half word is left. A phrase is whole words: "pen" is no part
of "penguin". Where tokens end inside of a word this is decided at the token: what is spelled "pen" + "guin" is closed
as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from conceptguard.decoding import Decoding
from conceptguard.errors import PolicyError
from conceptguard.hookspecs import hookimpl
from conceptguard.lineage import Follow
from conceptguard.method import Method, Settings

from .phrase_bank import Bank
from .phrase_tokens import START, PhraseTokens

TENSOR = "phrases"


class PhrasesSettings(Settings):
    """file: a text file with one phrase a line, beside the policy; lines that begin with # are comments"""

    file: str = ""


class Phrases(Method):
    """Forbids what would finish a phrase of the concept's prompts, of a file, or of an artifact."""

    name = "phrases"
    needs = "nothing"
    Settings = PhrasesSettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        bank = Bank(self._phrases())
        if bank.empty:
            raise PolicyError(
                f"guard '{self.guard.label}': {_quoted(bank.empty)} without a letter or digit cannot be matched: "
                "take them out"
            )
        if not bank:
            raise PolicyError(
                f"guard '{self.guard.label}' has no phrases: give a concept with prompts, a file with one phrase a "
                "line, or an artifact"
            )
        self.tokens = PhraseTokens(bank, self.host.tongue)
        self._places = Follow(lambda: START, self.tokens.advance)

    def _phrases(self) -> list[str]:
        found = list(self.guard.concept.prompts) if self.guard.concept else []
        if self.settings.file:
            found += read_phrases(self.guard.beside(self.settings.file))
        if self.artifact:
            tensors = self.artifact.tensors()
            if TENSOR not in tensors or tensors[TENSOR].dtype != torch.uint8:
                raise PolicyError(f"{self.artifact.ref} holds no phrases: make it with `conceptguard make phrases`")
            found += bytes(tensors[TENSOR].numpy()).decode().splitlines()
        return found

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        """Constant work a row: its place in the bank moves by one token."""
        places, tokens = self._places(decoding), self.tokens
        if decoding.ids.shape[1] == decoding.begin:
            places = [place._replace(fresh=True) for place in places]
        if len(tokens.always):
            tokens.always = tokens.always.to(decoding.scores.device)
            decoding.forbid(self, tokens.always)
        own = {row: closing for row, place in enumerate(places) if (closing := tokens.forbidden(place))}
        if own:
            decoding.forbid(self, own)


def read_phrases(path: Path) -> list[str]:
    """One phrase a line. Raises PolicyError for a file that cannot be read."""
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(
            f"phrases file {path} cannot be read ({error}): give a text file, one phrase a line"
        ) from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _quoted(phrases: Iterable[str]) -> str:
    listed = list(phrases)
    named = ", ".join(repr(p) for p in listed[:3])
    return f"phrases {named}" + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
