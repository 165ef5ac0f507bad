"""What hosts of serving engines share.

An engine gives scores for the next token, takes others, and shows nothing of its inside: a guard that reads hidden
states, or an artifact that was made for one base model, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor

from ..errors import BaseMismatch, SessionError
from ..generation.decoding import Answer, Asked, Vocabulary
from ..host import Host

if TYPE_CHECKING:
    from ..registry import Artifact


class EngineHost(Host):
    """A ``TextHost`` without layers, whose texts are their prompts and what was said, whole.

    name: the engine's; vocabulary_size: scores a row
    """

    generates = "text"
    encodes = False
    vocabulary: Vocabulary
    vocabulary_size: int

    def check_base(self, artifact: Artifact) -> None:
        """Raises BaseMismatch for an artifact of one base model: the engine does not tell what it runs."""
        if made_for := artifact.manifest.base.fingerprint:
            raise BaseMismatch(
                f"{artifact.ref} was made for {artifact.manifest.base.family} ({made_for}), and a model there "
                "shows no layers that tell whether it is that: promise 3, that a guard fits its base, cannot be kept "
                f"on {self.name}; attach it to the model in transformers"
            )

    def pool(self, ids: Sequence[Sequence[int]], layer: int) -> Tensor:
        """Refused: there are no hidden states."""
        self._no_states()

    def states(self, ids: Sequence[Sequence[int]], layer: int) -> list[Tensor]:
        """Refused: there are no hidden states."""
        self._no_states()

    def _no_states(self, *_: Any) -> NoReturn:
        raise SessionError(
            "a guard of this policy reads hidden states, which the engine does not give: promise 5, the same guard "
            f"everywhere, cannot be kept on {self.name}; attach it to the model in transformers"
        )

    def prompt(self, row: list[int]) -> list[int]:
        """A row without what fills it up."""
        return row

    def asked(self, ids: Tensor | None, mask: Tensor | None) -> tuple[Asked, list[int]]:
        """The prompts among rows of ids [rows, tokens], each once, and for every row which one it is."""
        assert ids is not None
        own = [tuple(self.prompt(row)) for row in ids.tolist()]
        distinct = {prompt: i for i, prompt in enumerate(dict.fromkeys(own))}
        texts: list[str | None] = [self.vocabulary.decode(prompt) for prompt in distinct]
        pool: Callable[[int], Tensor] = self._no_states
        return Asked(texts, [list(prompt) for prompt in distinct], pool), [distinct[prompt] for prompt in own]

    def heard(self, rows: int) -> tuple[Asked, list[int]]:
        """Not asked: there is no encoder."""
        raise SessionError("this model has no encoder")

    # Every answer of the engine is shown to the session once, and nothing else is.

    def listen(self) -> None:
        """Nothing to listen to."""

    def answer(self, ids: Tensor) -> Answer:
        """Always a new one."""
        return "new"

    def before(self, ids: Tensor) -> Tensor | None:
        """Nothing: prompts are whole."""
        return ids[:, :0]

    def remember(self, ids: Tensor | None) -> None:
        """Nothing to remember."""
