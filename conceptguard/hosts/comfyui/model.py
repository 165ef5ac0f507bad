"""What the parts of the ComfyUI host ask of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ...generation.conditioning import Encoded
    from ...receipt import Receipt
    from ..denoising.families import Family
    from .text import Texts
    from .weight_patches import WeightPatches


class GuardedModel(Protocol):
    """A MODEL and the CLIP that its prompts are read with; ``ComfyHost`` is the one there is.

    base: comfy's model, with its ``diffusion_model``
    candidates: gives texts that may have been encoded elsewhere, e.g. those in the graph
    on_step: called with the receipt after every call of the denoiser, and with True when a sampling ended
    """

    name: str
    denoiser_name: str
    base: Any
    family: Family
    texts: Texts
    candidates: Callable[[], Iterable[str]]
    on_step: Callable[[Receipt, bool], None]
    weight_patches: WeightPatches | None

    @property
    def window(self) -> int:
        """How many tokens of a text are encoded together."""

    def compiled(self) -> bool:
        """Whether the sampling that runs is of a compiled model."""

    def attends(self) -> bool:
        """Whether the model's attention to text can be read."""

    def encode(self, texts: Sequence[str | tuple[str, ...]]) -> Encoded:
        """Texts as the denoiser sees them."""

    def read(self, texts: list[str]) -> Encoded:
        """Texts as gates read them."""

    def key_of(self, component: str) -> str:
        """ComfyUI's short name of a text encoder."""
