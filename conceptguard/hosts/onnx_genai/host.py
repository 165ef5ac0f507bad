"""The onnxruntime-genai host: a converted model of text, with its tokenizer.

The engine's classes cannot be changed from outside, so that the door is ``OnnxModel.generate``.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from ...errors import SessionError
from ...generation.decoding import Vocabulary
from ...runtime.choice import choice
from ..engine import EngineHost
from ..transformers.vocabulary import vocabulary_of
from .model import OnnxModel
from .speech import Speech

if TYPE_CHECKING:
    from ...protocols import SpeakingSession


class OnnxHost(EngineHost):
    """Host adapter for one model and its tokenizer, transformers' own. Raises SessionError for what does not fit."""

    about = "a pair (onnxruntime-genai model, tokenizer)"

    @classmethod
    def takes(cls, target: Any) -> bool:
        """A pair with an OnnxModel, or the engine's own Model, which alone cannot be guarded."""
        one = target[0] if isinstance(target, tuple) and len(target) == 2 else target
        return isinstance(one, OnnxModel) or type(one).__module__.split(".", 1)[0] == "onnxruntime_genai"

    @classmethod
    def sole(cls, target: Any) -> Any:
        """The model."""
        one = target[0] if isinstance(target, tuple) else target
        return one if isinstance(one, OnnxModel) else None

    def __init__(self, target: Any):
        super().__init__(target)
        if not isinstance(target, tuple) or not isinstance(target[0], OnnxModel) or not hasattr(target[1], "get_vocab"):
            raise SessionError(
                "cannot guard this: nobody can stand between a Model of onnxruntime-genai and a generator made of it; "
                "give the pair that conceptguard.load_model(folder) gives"
            )
        self.model, self.tokenizer = target
        self.name = "onnxruntime-genai"
        self.vocabulary_size = self.model.vocabulary_size
        if len(self.tokenizer) > self.vocabulary_size:
            raise SessionError(
                f"this tokenizer has {len(self.tokenizer)} tokens and the model {self.vocabulary_size}: they do not "
                "belong together; give the model's own tokenizer"
            )
        self.vocabulary: Vocabulary = vocabulary_of(self.tokenizer, self.ends | {self.model.pad}, self.vocabulary_size)

    @property
    def ends(self) -> frozenset[int]:
        """Ids that end a text."""
        return self.model.ends  # type: ignore[no-any-return]

    def prompt(self, row: list[int]) -> list[int]:
        """A row without padding."""
        return row[next((at for at, token in enumerate(row) if token != self.model.pad), len(row)) :]

    # Routing.

    def attach(self, session: SpeakingSession) -> None:
        """Let ``generate`` go through the session. Raises SessionError when it goes through one already."""
        if self.model.guarded is not None:
            raise SessionError("this model is already guarded: detach that session first, or take model.sharing()")
        me, own = weakref.ref(session), weakref.ref(self)

        def guarded(rows: list[list[int]], room: int, options: dict[str, Any], streamer: Any) -> list[list[int]]:
            here, host = me(), own()
            if here is None or host is None:
                raise SessionError("the policy of this model is gone: attach one, or load the model again")
            chosen = choice(host)
            acting: SpeakingSession = chosen.session if chosen is not None and chosen.session is not None else here
            speech = Speech(acting, host, host.model, options)
            said: list[list[int]] = acting.run(lambda: speech(rows, room, streamer))
            return said

        self.model.guarded = guarded

    def add(self, session: SpeakingSession) -> None:
        """Another session for the same model: nothing of it is kept here, ``generate`` asks which one is chosen."""

    def drop(self, session: SpeakingSession) -> None:
        """Undo ``add``."""

    def detach(self) -> None:
        """Let ``generate`` go as before."""
        self.model.guarded = None
