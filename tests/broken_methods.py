"""Methods that break the contract on purpose, each in one way. The kit must catch every one, by the right check."""

from __future__ import annotations

from typing import Any

import torch

from conceptguard import Method, hookimpl
from conceptguard.formats import read_terms
from conceptguard.generation.conditioning import Prompts
from conceptguard.generation.denoising import Step
from conceptguard.runtime.gates import Gate
from conceptguard.runtime.lowrank import Factors, LayerIndex, Terms

WORD = "cigarette"
GATE = Gate(prompts=(WORD, f"a {WORD}"), floor=0.9, full=0.95)
VALUE = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"


def _term(layers: LayerIndex, size: float = 2.0) -> dict[str, Factors]:
    """One term large enough to show, beside every cross-attention value projection."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: Factors(
            torch.randn(1, shape[1], generator=generator) / shape[1] ** 0.5,
            size * torch.randn(shape[0], 1, generator=generator),
        )
        for name, shape in layers.shapes().items()
        if name.startswith("unet.") and name.endswith("attn2.to_v")
    }


class Good(Method):
    """What the others are when they do not break anything: a term that opens on the word."""

    name = "good"
    needs = "nothing"

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        return Terms(self, _term(layers), GATE)


class LeaksHook(Good):
    """Puts a hook on a layer by itself and never takes it off."""

    name = "leaks-hook"

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        layers[f"unet.{VALUE}"].register_forward_hook(lambda *_: None)
        return super().cross_attention(layers)


class LeaksReference(Good):
    """Keeps itself, and with it the session's host, in a list of its class."""

    name = "leaks-reference"
    alive: list[Any] = []

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        self.alive.append(self)
        return super().cross_attention(layers)


class LeaksPatch(Good):
    """Replaces a method of a module and leaves it replaced."""

    name = "leaks-patch"

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        layer = layers[f"unet.{VALUE}"]
        layer.forward = type(layer).forward.__get__(layer)  # type: ignore[method-assign]
        return super().cross_attention(layers)


class TouchesWeights(Good):
    """Folds a little of its term into a base weight."""

    name = "touches-weights"

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        with torch.no_grad():
            layers[f"unet.{VALUE}"].weight[0, 0] += 1e-6  # type: ignore[index, operator]
        return super().cross_attention(layers)


class IgnoresRows(Method):
    """Looks at the whole batch: one row that names the word changes every row."""

    name = "ignores-rows"
    needs = "nothing"
    hit = False

    @hookimpl
    def encode_prompt(self, prompts: Prompts) -> None:
        self.hit = any(WORD in (text or "") for text in prompts.texts)

    @hookimpl
    def predict_noise(self, step: Step) -> None:
        if self.hit:
            step.prediction = step.prediction * 0.5
            self.act.steps.append(step.index)


class FirstRowOnly(Method):
    """Looks at the first prompt of a batch and forgets the others."""

    name = "first-row-only"
    needs = "nothing"

    @hookimpl
    def encode_prompt(self, prompts: Prompts) -> None:
        if WORD in (prompts.texts[0] or ""):
            prompts.rewrite(0, "")
            self.act.notes.append("emptied a prompt")


class SwallowsError(Method):
    """Cannot read its artifact, and lets everything through."""

    name = "swallows-error"

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms | None:
        assert self.artifact is not None
        try:
            factors = read_terms(self.artifact.tensors(), self.artifact.metadata(), layers)
        except Exception:
            return None
        return Terms(self, factors, GATE)


class SwallowsOthers(Good):
    """A wrapper around everyone's step that hides what the others raise."""

    name = "swallows-others"

    @hookimpl(wrapper=True)
    def predict_noise(self, step: Step) -> Any:
        try:
            return (yield)
        except Exception:
            return []


class LiesInReceipt(Good):
    """Its terms run, and afterwards its entry says they ran half as far."""

    name = "lies-in-receipt"

    @hookimpl
    def predict_noise(self, step: Step) -> None:
        self.act.gates = [gate / 2 for gate in self.act.gates]


class ActsInSilence(Method):
    """Changes the prediction of rows that name the word, and the receipt knows nothing of it."""

    name = "acts-in-silence"
    needs = "nothing"

    @hookimpl
    def encode_prompt(self, prompts: Prompts) -> None:
        for row, text in enumerate(prompts.texts):
            if WORD in (text or ""):
                prompts.rewrite(row, "")


class ActsOnUnrelated(Good):
    """A gate that is never quite shut."""

    name = "acts-on-unrelated"

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        return Terms(self, _term(layers, 1e-3), Gate())


class DoesNothing(Method):
    """Keeps every promise but the first one of all."""

    name = "does-nothing"
    needs = "nothing"

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> None:
        return None


# method -> the check that must catch it
CAUGHT_BY = {
    LeaksHook: "no_trace",
    LeaksReference: "no_trace",
    LeaksPatch: "no_trace",
    TouchesWeights: "no_trace",
    IgnoresRows: "rows_are_separate",
    FirstRowOnly: "rows_are_separate",
    SwallowsError: "truncated_file_refused",
    SwallowsOthers: "guard_beside_that_raises",
    LiesInReceipt: "receipt_is_true",
    ActsInSilence: "receipt_tells_all",
    ActsOnUnrelated: "no_guard_tax",
    DoesNothing: "it_acts",
}
