"""The onnxruntime-genai host: a converted model of text, with its tokenizer.

The engine's classes cannot be changed from outside, so that the door is ``OnnxModel.generate``. It gives scores for the
next token and takes others, and nothing from inside of the model: a guard that reads hidden states, or an artifact
that was made for one base model, is refused when the policy is attached.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from ...errors import BaseMismatch, SessionError
from ...generation.decoding import Answer, Asked, Vocabulary
from ...host import Host
from ...runtime.choice import choice
from ..transformers.vocabulary import vocabulary_of
from .model import OnnxModel
from .speech import Speech

if TYPE_CHECKING:
    from ...protocols import SpeakingSession
    from ...registry import Artifact


class OnnxHost(Host):
    """Host adapter for one model and its tokenizer, transformers' own. Raises SessionError for what does not fit."""

    about = "a pair (onnxruntime-genai model, tokenizer)"
    generates = "text"
    encodes = False

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

    # What a session and a method may ask.

    def check_base(self, artifact: Artifact) -> None:
        """Raises BaseMismatch for an artifact of one base model: a converted model does not tell what it was."""
        if made_for := artifact.manifest.base.fingerprint:
            raise BaseMismatch(
                f"{artifact.ref} was made for {artifact.manifest.base.family} ({made_for}), and a converted model has "
                "no layers that tell whether it is that: promise 3, that a guard fits its base, cannot be kept on "
                "onnxruntime-genai; attach it to the model in transformers"
            )

    def pool(self, ids: Sequence[Sequence[int]], layer: int) -> Tensor:
        """Refused: there are no hidden states."""
        self._no_states()

    def states(self, ids: Sequence[Sequence[int]], layer: int) -> list[Tensor]:
        """Refused: there are no hidden states."""
        self._no_states()

    def _no_states(self, *_: Any) -> NoReturn:
        raise SessionError(
            "a guard of this policy reads hidden states, which onnxruntime-genai does not give: promise 5, the same "
            "guard everywhere, cannot be kept here; attach it to the model in transformers"
        )

    def asked(self, ids: Tensor | None, mask: Tensor | None) -> tuple[Asked, list[int]]:
        """The prompts among rows of ids [rows, tokens], each once, and for every row which one it is."""
        assert ids is not None
        own = []
        for row in ids.tolist():
            first = next((at for at, token in enumerate(row) if token != self.model.pad), len(row))
            own.append(tuple(row[first:]))
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

    def device_dtype(self) -> tuple[torch.device, torch.dtype]:
        """Where scores are, and in what."""
        return torch.device("cpu"), torch.float32
