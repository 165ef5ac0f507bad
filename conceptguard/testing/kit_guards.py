"""Guards of the kit's own, to stand beside the one that is judged: one that always acts, one that always fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .. import plugins
from ..generation.conditioning import Prompts
from ..generation.decoding import Decoding
from ..generation.images import Images
from ..markers import hookimpl
from ..method import Method
from ..receipt import Verdict
from ..runtime.gates import Gate
from ..runtime.lowrank import Factors, LayerIndex, Terms
from ..text.words import stands_in

WORD = "cigarette"  # what the two guards for hosts look for


class Beside(Method):
    """A small fixed term beside every value projection of the denoiser."""

    name = "contract-beside"
    needs = "nothing"

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """Rank 1, always open, the same in every session."""
        generator = torch.Generator().manual_seed(0)
        factors = {
            name: Factors(
                torch.randn(1, shape[1], generator=generator) / shape[1] ** 0.5,
                torch.randn(shape[0], 1, generator=generator) * 0.5,
            )
            for name, shape in layers.shapes().items()
            if name.startswith(f"{self.host.denoiser_name}.") and name.endswith("to_v")
        }
        return Terms(self, factors, Gate())


class Failing(Method):
    """Raises at every step."""

    name = "contract-failing"
    needs = "nothing"

    @hookimpl
    def predict_noise(self) -> None:
        """What a defect in somebody's guard looks like."""
        raise ZeroDivisionError("on purpose")


class FailingPrompt(Method):
    """Raises at every prompt."""

    name = "contract-failing-prompt"
    needs = "nothing"

    @hookimpl
    def encode_prompt(self) -> None:
        """What a defect in somebody's guard looks like."""
        raise ZeroDivisionError("on purpose")


class Replacing(Method):
    """A word of a prompt becomes another one."""

    name = "contract-replacing"
    needs = "nothing"

    @hookimpl
    def encode_prompt(self, prompts: Prompts) -> None:
        """Row by row, where the word stands."""
        for row, text in enumerate(prompts.texts):
            if text is not None and stands_in(WORD, text):
                prompts.rewrite(row, text.replace(WORD, "flower"))
                self.act.notes.append(f"'{WORD}' became 'flower'")


class Flagging(Method):
    """Flags every picture whose prompt has a word."""

    name = "contract-flagging"
    needs = "nothing"

    @hookimpl
    def check_image(self, images: Images) -> None:
        """One verdict a picture."""
        for i, text in enumerate(images.prompts):
            found = stands_in(WORD, text or "")
            images.verdicts.append(Verdict(i, self.guard.label, WORD, float(found), found))


class BesideText(Method):
    """Forbids one token that ends no text, always."""

    name = "contract-beside-text"
    needs = "nothing"

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        """The last of the vocabulary that a tokenizer has."""
        decoding.forbid(self, torch.tensor([len(self.host.vocabulary.pieces) - 1], device=decoding.scores.device))


class FailingText(Method):
    """Raises at every token."""

    name = "contract-failing-text"
    needs = "nothing"

    @hookimpl
    def process_logits(self) -> None:
        """What a defect in somebody's guard looks like."""
        raise ZeroDivisionError("on purpose")


@contextmanager
def offered(method: type[Method]) -> Iterator[dict[str, Any]]:
    """A method on offer without an entry point, for a while; gives its entry for a policy."""
    manager = plugins.plugin_manager()
    manager.register(method)
    try:
        yield {"method": method.name}
    finally:
        manager.unregister(method)


@contextmanager
def raising(method: type[Method], hook: str) -> Iterator[None]:
    """One hook of a method replaced by one that raises."""

    @hookimpl
    def broken(self: Any) -> None:
        raise ZeroDivisionError("on purpose")

    own = vars(method).get(hook)
    setattr(method, hook, broken)
    try:
        yield
    finally:
        if own is None:
            delattr(method, hook)
        else:
            setattr(method, hook, own)
