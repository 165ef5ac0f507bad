"""The hooks, on one screen. Pluggy decides who acts and in which order; plain tensors do the work.

Set-up hooks live on one global manager (entry-point group ``conceptguard``); generation hooks live on a manager
that belongs to the session, where every active guard is itself a registered plugin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from .markers import hookspec

if TYPE_CHECKING:
    import typer

    from .attack import Attack
    from .finder import Finder
    from .generation.conditioning import Prompts
    from .generation.decoding import Asked, Decoding, Sentence
    from .generation.denoising import Conditions, Step
    from .generation.images import Images
    from .host import Host
    from .method import Method
    from .runtime.lowrank import LayerIndex, Terms
    from .runtime.within import Within
    from .text_attack import TextAttack


class Named(Protocol):
    """What is offered by a name of its own."""

    name: ClassVar[str]


class SetUp:
    @hookspec
    def methods(self) -> list[type[Method]]:  # type: ignore[empty-body]
        """Offer methods by class."""

    @hookspec
    def hosts(self) -> list[type[Host]]:  # type: ignore[empty-body]
        """Offer hosts by class: what makes a framework's models go through a session."""

    @hookspec
    def attacks(self) -> list[type[Attack] | type[TextAttack]]:  # type: ignore[empty-body]
        """Offer attacks by class: what tries to bring an erased concept back, from pictures or from language."""

    @hookspec
    def finders(self) -> list[type[Finder]]:  # type: ignore[empty-body]
        """Offer finders by class: what names the concepts in pictures or in a model, see ``finder``."""

    @hookspec
    def measures(self) -> list[type[Named]]:  # type: ignore[empty-body]
        """Offer measures by class: what judges a guard."""

    @hookspec
    def commands(self, app: typer.Typer) -> None:
        """Add commands to ``conceptguard``."""


class Generation:
    @hookspec
    def cross_attention(self, layers: LayerIndex) -> Terms | None:
        """Once, at attach: low-rank terms for layers by canonical name, and the gate that opens them per row."""

    @hookspec
    def encode_prompt(self, prompts: Prompts) -> None:
        """Once per call, before denoising: read or change texts and embeddings, or raise ``Refused``."""

    @hookspec
    def condition(self, conditions: Conditions) -> None:
        """Every step, before the denoiser, whoever calls it: change what a row is conditioned on for this call, or
        move the latents that it is denoised from.

        Gates are set before, by what the caller asked for: no guard hides a prompt from another one.
        """

    @hookspec
    def predict_noise(self, step: Step) -> None:
        """Every step: read or change ``step.prediction``, row by row."""

    @hookspec
    def check_image(self, images: Images) -> None:
        """After decoding: add verdicts about images in [0, 1]."""

    @hookspec
    def read_prompt(self, asked: Asked) -> None:
        """Once per generation of text, before its first token: read the prompts, tell how, or raise ``Refused``."""

    @hookspec
    def process_logits(self, decoding: Decoding) -> None:
        """Every token: forbid, penalise or force tokens, row by row."""

    @hookspec
    def hidden_states(self, layers: LayerIndex) -> Within | None:
        """Once, at attach to a language model: terms beside its layers, or functions of what layers give, which run at
        every forward pass, and the gate that opens them for each prompt. Nothing is in the way of a closed gate."""

    @hookspec
    def check_sentence(self, sentence: Sentence) -> None:
        """Every finished sentence of a text, before it leaves: reject it, and the row goes another way."""


GENERATION = frozenset(name for name in vars(Generation) if not name.startswith("_"))
# What language models call; the rest draw.
TEXT = frozenset({"read_prompt", "process_logits", "hidden_states", "check_sentence"})
