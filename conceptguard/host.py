"""What a host is: one class that makes a framework's model go through a session.

A host of your own is a subclass of ``Host`` and one entry point in the group ``conceptguard``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from .errors import GuardError, SessionError
from .markers import hookimpl

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch
    from torch import Tensor

    from .generation.conditioning import Encoded
    from .generation.decoding import Ahead, Answer, Asked, Vocabulary
    from .protocols import Denoiser, NoiseLevels, Sight, Speaker, TextEncoder
    from .registry import Artifact
    from .runtime.encodings import EncodingCache
    from .runtime.lowrank import Factors, LayerIndex


class Host:
    """What a session and a method may ask of what generates. Subclass, and say what you have.

    name: the framework and the kind of model, for receipts and errors; target: what was given to ``attach``
    about: what it takes, for the error about something that no host takes; "" for what users do not give
    generates: "images", which includes video, "text", or "tensors", by a module that nobody prompts: which hooks a
    session calls
    rest: whether it takes what no other host takes, and is asked last
    denoiser_name: the component that predicts noise, a prefix of the names of its layers

    A subclass without a model, or with one that nothing can reach into, has neither layers nor encoders: guards that
    read prompts as texts, or look at pictures, act there, and any other one raises SessionError.
    """

    about: ClassVar[str]
    generates: ClassVar[Literal["images", "text", "tensors"]] = "images"
    rest: ClassVar[bool] = False
    name: str
    target: Any
    denoiser_name: str = "denoiser"

    def __init__(self, target: Any):
        self.target = target

    @hookimpl
    @classmethod
    def hosts(cls) -> list[type[Host]]:
        """A class named in an entry point offers itself."""
        return [cls]

    @classmethod
    def takes(cls, target: Any) -> bool:
        """Whether this is the host for an object. Told without importing a framework: the object's class knows it."""
        raise NotImplementedError

    @classmethod
    def sole(cls, target: Any) -> Any:
        """What of a target only one session at a time may have: it is marked before a policy is loaded. None, by
        default, where any number of sessions may share it. Hashable by identity, and weakly referable."""
        return None

    def turn(self) -> AbstractContextManager[Any]:
        """What is held while a policy is attached or detached, and during a generation, and that its holder may take
        again; by default a lock of this host's own. Hosts that share what they draw with give a shared one."""
        return threading.RLock()

    def attach(self, session: Any) -> None:
        """Route generation through the session, a ``DrawingSession`` or a ``SpeakingSession``. Raises SessionError
        when it already goes through one."""
        raise NotImplementedError

    def detach(self) -> None:
        """Undo ``attach`` to the last reference."""
        raise NotImplementedError

    def add(self, session: Any) -> None:
        """Beside the attached session there is another one, which acts in calls for which it is chosen: see
        ``Session.using``. Raises SessionError, by default always."""
        raise SessionError(
            f"{self.name} is under one policy at a time, and '{session.policy.name}' cannot be used in another one's "
            "place: detach, then attach it"
        )

    def drop(self, session: Any) -> None:
        """Undo ``add``."""
        raise NotImplementedError

    def layers(self) -> LayerIndex:
        """Linear and convolution layers under canonical names; by default there are none."""
        from .runtime.lowrank import LayerIndex

        return LayerIndex({})

    def weights(self) -> Callable[[str], Tensor]:
        """Weights by the canonical names of layers, [out, in], as they are without what others patch them with."""
        from .formats import read_weights_of

        return read_weights_of(self.layers())

    def begins(self) -> bool:
        """Of a model that generates text: whether it has begun one anew since this was asked last, as far as that can
        be seen; by default it cannot. A logits processor asks."""
        return False

    def ahead(self, ids: Tensor, begin: int, asked: Asked, prompt_of: Sequence[int]) -> Ahead | None:
        """Of a model that generates text: what it would say after rows of ids [rows, tokens], of which ``begin`` are
        prompt, and which it has just given scores for; see ``Ahead``. By default it cannot be asked: None."""
        return None

    @property
    def foresees(self) -> bool:
        """Whether ``ahead`` can be asked, as far as the model alone tells; by default it cannot."""
        return False

    def part(self, name: str) -> Any:
        """A module of a language model by its name, after ``model.``. Raises SessionError where nothing can reach into
        the model, by default."""
        raise self._lacks("layer")

    def entries(self) -> Sequence[Any]:
        """The modules through which every call of a language model goes; by default none can be told."""
        return ()

    def looks(self) -> Sequence[tuple[Any, Any]]:
        """Of a language model that sees: the module that is called with pictures, and the one that reads what becomes
        of them together with the text; by default it does not."""
        return ()

    def places(self, ids: Sequence[Sequence[int] | None]) -> list[int]:
        """In how many places of each prompt a picture stands, or a part of one; [] where a prompt is not known."""
        return []

    def asking(self) -> tuple[int, Sequence[int]] | Literal["nothing"] | None:
        """Whose call of a language model is running: None for the generation's own, "nothing" for one that has nothing
        to do with its rows, else how many rows that has, and which of them the call is about."""
        return None

    def device_dtype(self) -> tuple[torch.device, torch.dtype]:
        """Where the host runs, and in what it computes; by default floats on the CPU."""
        import torch

        return torch.device("cpu"), torch.float32

    def check_base(self, artifact: Artifact) -> None:
        """Raises BaseMismatch when the artifact was made for another architecture; by default there is none."""

    def fingerprint(self) -> str:
        """Same for a fine-tuned sibling, different for another architecture."""
        raise self._lacks("model")

    def encoder_fingerprint(self) -> str:
        """The same for the text encoders alone, whatever draws with them; "" where there are none."""
        from .registry.fingerprint import encoder_fingerprint

        return encoder_fingerprint(self.layers().shapes())

    def compiled(self) -> bool:
        """Whether any part of the model is compiled: its graphs should then be few."""
        return False

    def encode(self, texts: Sequence[str | tuple[str, ...]]) -> Encoded:
        """Texts as the denoiser sees them; a tuple has one for each encoder."""
        raise self._lacks("text encoder")

    def encode_negative(self, texts: Sequence[str | tuple[str, ...]]) -> Encoded:
        """The same as negative prompts are encoded: options of a call may count for prompts alone."""
        return self.encode(texts)

    @property
    def encoding(self) -> Hashable:
        """How the running call encodes texts; what was encoded under another one is encoded anew."""
        return None

    def lengthened(self, embeds: Tensor, tokens: int) -> Tensor:
        """Embeddings of a guard's own text [rows, tokens, width] in as many tokens as a call has. Raises GuardError
        where they are fewer and nothing can follow them."""
        if embeds.shape[1] < tokens:
            raise GuardError(
                f"this call reads {tokens} tokens a prompt, the guards' own texts are {embeds.shape[1]} long: give a "
                "smaller max_sequence_length"
            )
        return embeds[:, :tokens]

    def read(self, texts: list[str]) -> Encoded:
        """Texts as gates read them: a begin token, then the text's own."""
        raise self._lacks("text encoder")

    def encoding_cache(self) -> EncodingCache:
        """What ``read`` was asked before, on this encoder as it is now."""
        from .runtime.encodings import EncodingCache

        return EncodingCache()

    def tokens(self, texts: list[str], whole: bool = False) -> list[list[int]]:
        """Token ids of texts without special tokens, cut at the encoder's window unless ``whole``."""
        raise self._lacks("text encoder")

    @property
    def window(self) -> int:
        """How many tokens of a text the encoder reads, special tokens not counted."""
        raise self._lacks("text encoder")

    def encoders(self) -> Sequence[TextEncoder]:
        """The text encoders one by one, each with its own tokens and its part of an embedding."""
        raise self._lacks("text encoder")

    def denoiser(self) -> Denoiser:
        """The denoiser as a plain function with its noise schedule, for methods that learn."""
        raise self._lacks("denoiser")

    def speaker(self) -> Speaker:
        """The language model as a plain function of ids, for methods that learn."""
        raise self._lacks("language model to be trained beside")

    def sight(self) -> Sight:
        """How the language model sees pictures, for methods that are about these."""
        raise self._lacks("sight of pictures")

    def noise_levels(self) -> NoiseLevels:
        """How much picture and how much noise latents hold at a timestep."""
        raise self._lacks("denoiser")

    def predict(
        self, text: str, latents: Tensor, timestep: int, step: int = 0, vectors: Tensor | None = None,
        guarded: bool = True,
    ) -> Tensor:  # fmt: skip
        """What the denoiser predicts for one prompt on ``latents`` [rows, channels, h, w], as ``latents``, under the
        attached policy, as in step ``step`` of a generation, and with gradients: through guards and their gates.

        vectors: input vectors [n, hidden] that the text encoder reads in place of the text's own tokens; guards read
        the text. guarded: without the policy. Raises what guards raise, and SessionError where it cannot be asked
        """
        raise self._lacks("denoiser")

    def knowing(self, words: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Meanwhile the model has learnt words, each with its input vector [hidden], as by textual inversion. Raises
        SessionError where it cannot."""
        raise self._lacks("text encoder")

    def wearing(self, lora: Mapping[str, Factors]) -> AbstractContextManager[None]:
        """Meanwhile the model has a LoRA, loaded as its users load theirs. Raises SessionError where it cannot."""
        raise self._lacks("denoiser")

    def compose(
        self, texts: Sequence[str], weights: Sequence[float], generators: Sequence[Any], steps: int,
        latents: Tensor | None = None, begin: int = 0, eta: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """A picture for each generator, [n, 3, h, w] in [0, 1], under the attached policy, of several prompts at once:
        ε = ε_∅ + Σ w_i (ε(c_i) - ε_∅) in every step. Raises what guards raise.

        latents: [n, channels, h, w] that step ``begin`` starts from, by default noise; eta: DDIM's η
        """
        raise self._lacks("denoiser")

    def attends(self) -> bool:
        """Whether ``Conditions.attend`` is there: attention to text that can be read token by token."""
        return False

    def _lacks(self, what: str) -> SessionError:
        return SessionError(
            f"a guard asked for a {what}, and {self.name} has none that it could use: attach it to a model that has"
        )


class TextHost(Protocol):
    """What a session and a method may ask of a language model. ``model`` and ``tokenizer`` are transformers' own.

    encodes: whether the model has an encoder; ends: ids that end a text
    """

    name: str
    target: Any
    model: Any
    tokenizer: Any
    vocabulary: Vocabulary
    encodes: bool

    @property
    def ends(self) -> frozenset[int]: ...

    def layers(self) -> LayerIndex:
        """Linear layers under their names in the model, after ``model.``."""

    def pool(self, ids: Sequence[Sequence[int]], layer: int) -> Tensor:
        """Hidden states of texts (of the encoder where there is one), a mean over tokens: [texts, width]."""

    def states(self, ids: Sequence[Sequence[int]], layer: int) -> list[Tensor]:
        """The same token by token: [tokens, width] each."""

    def looks(self) -> Sequence[tuple[Any, Any]]:
        """The picture tower of a model that sees, and its text model."""

    def places(self, ids: Sequence[Sequence[int] | None]) -> list[int]:
        """In how many places of each prompt a picture stands, or a part of one; [] where a prompt is not known."""

    def asked(self, ids: Tensor | None, mask: Tensor | None) -> tuple[Asked, list[int]]:
        """The prompts among rows of ids [rows, tokens], each once, and for every row which one it is."""

    def heard(self, rows: int) -> tuple[Asked, list[int]]:
        """The encoder's prompts, and which one each of the decoder's rows is about."""

    @property
    def vocabulary_size(self) -> int:
        """How many scores the model gives a row."""

    def listen(self) -> None:
        """Remember what the model is given, and what its encoder reads, where it has one."""

    def answer(self, ids: Tensor) -> Answer:
        """What scores for the next token of rows of ids [rows, tokens] are: see ``Answer``."""

    def before(self, ids: Tensor) -> Tensor | None:
        """What the model was given before ``ids``, [rows, n], which its last call was about; None: nobody knows."""

    def begins(self) -> bool:
        """Whether the model has begun a text anew since this was asked last, as far as that can be seen."""

    def ahead(self, ids: Tensor, begin: int, asked: Asked, prompt_of: Sequence[int]) -> Ahead | None:
        """What the model would say after rows of ids [rows, tokens]: see ``Host.ahead``."""

    @property
    def foresees(self) -> bool:
        """Whether ``ahead`` can be asked, as far as the model alone tells."""

    def part(self, name: str) -> Any:
        """A module of the model by its name, after ``model.``."""

    def entries(self) -> Sequence[Any]:
        """The modules through which every call of the model goes; none where nothing can reach into it."""

    def asking(self) -> tuple[int, Sequence[int]] | Literal["nothing"] | None:
        """Whose call of the model is running: see ``Host.asking``."""

    def remember(self, ids: Tensor | None) -> None:
        """What the model was given so far, in the cache of its last call: [rows, tokens]; None: nobody knows."""

    def attach(self, session: Any) -> None:
        """Route ``generate`` through the session."""

    def add(self, session: Any) -> None:
        """Beside it there is another one, which acts where it is chosen: see ``LanguageSession.using``."""

    def drop(self, session: Any) -> None:
        """Undo ``add``."""

    def device_dtype(self) -> tuple[torch.device, torch.dtype]:
        """Where the host runs, and in what it computes."""

    def check_base(self, artifact: Artifact) -> None:
        """Raises BaseMismatch when the artifact was made for another architecture."""

    def fingerprint(self) -> str:
        """Same for a fine-tuned sibling, different for another architecture."""

    def detach(self) -> None:
        """Give the model back to the last reference."""


class LanguageModel(NamedTuple):
    """A model of transformers that generates text, and its tokenizer, of one that sees its processor: what ``attach``
    takes as a pair."""

    model: Any
    tokenizer: Any

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self.model.device

    @property
    def name(self) -> str:
        """The name it was loaded by, or its folder's."""
        return Path(str(self.model.name_or_path)).name

    def to(self, device: Any) -> LanguageModel:
        """The same pair, the model moved."""
        self.model.to(device)
        return self
