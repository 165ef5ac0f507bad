"""Hosts: what generates. One module per framework, and the only code that knows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import SessionError

if TYPE_CHECKING:
    import torch

    from ..decoding import Tongue
    from ..encodings import Known
    from ..generation import Encoded
    from ..lowrank import LayerIndex
    from ..registry import Artifact
    from ..session import Session
    from .denoiser import Denoiser
    from .noise_levels import NoiseLevels
    from .text_encoders import TextEncoder


class Host(Protocol):
    """What a session and a method may ask of a host."""

    name: str
    target: Any
    denoiser_name: str

    def layers(self) -> LayerIndex:
        """Linear and convolution layers under canonical names."""

    def encode(self, texts: Sequence[str | tuple[str, ...]]) -> Encoded:
        """Texts as the denoiser sees them; a tuple has one for each encoder."""

    def read(self, texts: list[str]) -> Encoded:
        """Texts as gates read them: a begin token, then the text's own."""

    def known(self) -> Known:
        """What ``read`` was asked before, on this encoder as it is now."""

    @property
    def window(self) -> int:
        """How many tokens of a text the encoder reads, special tokens not counted."""

    def compiled(self) -> bool:
        """Whether any part of the model is compiled: its graphs should then be few."""

    def device_dtype(self) -> tuple[torch.device, torch.dtype]:
        """Where the host runs, and in what it computes."""

    def check_base(self, artifact: Artifact) -> None:
        """Raises BaseMismatch when the artifact was made for another architecture."""

    def tokens(self, texts: list[str], whole: bool = False) -> list[list[int]]:
        """Token ids of texts without special tokens, cut at the encoder's window unless ``whole``."""

    def encoders(self) -> Sequence[TextEncoder]:
        """The text encoders one by one, each with its own tokens and its part of an embedding."""

    def fingerprint(self) -> str:
        """Same for a fine-tuned sibling, different for another architecture."""

    def denoiser(self) -> Denoiser:
        """The denoiser as a plain function with its noise schedule, for methods that learn."""

    def noise_levels(self) -> NoiseLevels:
        """How much picture and how much noise latents hold at a timestep."""

    def attends(self) -> bool:
        """Whether ``Conditions.attend`` is there: attention to text that can be read token by token."""

    def attach(self, session: Session) -> None:
        """Route the host's generation through the session. Raises SessionError when it already goes through one."""

    def detach(self) -> None:
        """Undo ``attach`` to the last reference."""


class TextHost(Protocol):
    """What a session and a method may ask of a language model. ``model`` and ``tokenizer`` are transformers' own."""

    name: str
    target: Any
    model: Any
    tokenizer: Any
    tongue: Tongue

    def layers(self) -> LayerIndex:
        """Linear layers under their names in the model, after ``model.``."""

    def pool(self, ids: Sequence[Sequence[int]], layer: int) -> torch.Tensor:
        """Hidden states of texts (of the encoder where there is one), a mean over tokens: [texts, width]."""

    def states(self, ids: Sequence[Sequence[int]], layer: int) -> list[torch.Tensor]:
        """The same token by token: [tokens, width] each."""

    def device_dtype(self) -> tuple[torch.device, torch.dtype]:
        """Where the host runs, and in what it computes."""

    def check_base(self, artifact: Artifact) -> None:
        """Raises BaseMismatch when the artifact was made for another architecture."""

    def fingerprint(self) -> str:
        """Same for a fine-tuned sibling, different for another architecture."""

    def detach(self) -> None:
        """Give the model back to the last reference."""


def is_text(target: Any) -> bool:
    """Whether something speaks: a transformers pipeline, or a pair (model, tokenizer)."""
    one = target[0] if isinstance(target, tuple) and len(target) == 2 else target
    modules = {cls.__module__.split(".", 1)[0] for cls in type(one).__mro__}
    return "transformers" in modules and "diffusers" not in modules


def host_for(target: Any) -> Host:
    """The host adapter for an object that draws. Raises SessionError for what no adapter knows."""
    modules = {cls.__module__.split(".", 1)[0] for cls in type(target).__mro__}
    if "diffusers" in modules:
        from diffusers import ModularPipeline

        from .diffusers import DiffusersHost
        from .modular import ModularHost

        return (ModularHost if isinstance(target, ModularPipeline) else DiffusersHost)(target)
    if type(target).__module__ == f"{__name__}.images":
        from .images import ImagesHost

        return ImagesHost(target)  # type: ignore[return-value]
    if isinstance(target, tuple) and len(target) == 2 and hasattr(target[1], "cond_stage_model"):
        from .comfyui import ComfyHost, Target

        return ComfyHost(Target(*target))  # type: ignore[return-value]
    raise SessionError(
        f"cannot guard a {type(target).__module__}.{type(target).__qualname__}: give a diffusers pipeline, a "
        "transformers pipeline for text, a pair (language model, tokenizer), or in ComfyUI a (MODEL, CLIP) pair"
    )


def any_host_for(target: Any) -> Any:
    """The host adapter for an object that draws or speaks, as ``make`` needs it. Raises SessionError."""
    if is_text(target):
        from .transformers import TransformersHost

        return TransformersHost(target)
    return host_for(target)
