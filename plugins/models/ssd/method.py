"""SSD: weights that matter more to what is to be forgotten than to everything together are dampened, without training.

θ_i ← min(λ F_D,i / F_f,i, 1) θ_i    where    F_f,i > α F_D,i

F: the diagonal of the Fisher information, over all training examples (D) and over those to forget (f).

Foster, Schoepf and Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening", AAAI
2024. Their code squares the mean gradient of a batch, which is no Fisher information: ``compat: official`` does too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from conceptguard import load_model
from conceptguard.formats import read_artifact
from conceptguard.formats.beside import read_beside
from conceptguard.making.examples import load_examples
from conceptguard.making.task import Learned, Task
from conceptguard.making.templates import TEMPLATES
from conceptguard.markers import hookimpl
from conceptguard.method import Settings
from conceptguard.runtime.lowrank import LayerIndex, Terms
from conceptguard.runtime.within import Within

from ...diffusion.trained_layers import Layers
from ...language.classifier.examples import Examples
from ...language.classifier.gate import opened_by, read_gate
from ..fisher import of_batches, per_sample
from ..forgetting import ForgetSettings, Forgetting, always_open
from ..lesson import Lesson
from .dampening import counted, factors
from .generating import of_pictures, of_texts


class SSDSettings(Settings):
    """threshold: of a language model, from which probability a prompt is after what was forgotten, where the artifact
    has a classifier"""

    threshold: float = Field(default=0.5, gt=0, lt=1)


class SSDMakeSettings(ForgetSettings):
    """How weights are chosen and dampened.

    alpha: a weight is dampened where it matters so many times as much to what is to be forgotten
    lam: λ above, how little is left of it
    chosen: "fisher", or "random": as many weights, dampened as much, but drawn at random, which is the control
    compat: "official" squares mean gradients of batches, as the authors' code does; "paper", those of single examples;
    of classifiers
    batch: how many examples are in such a batch
    sample: of classifiers, how many examples stand for all, of each class its share; 0: all, as with compat: official
    views: of generating models, how many pictures or texts are looked at together
    layers: of a model that draws, which of the denoiser's linear layers, as for esd
    shots, looks: pictures that it draws, of the concept and of what stays each, and how often each is looked at, with
    other noise
    templates: what the concept's prompts are put into, {} or with an article {a}
    forget, retain: of a language model, prompts and answers as for npo; length: how many tokens of a text are read
    texts: how many of either kind are looked at
    classifier: in how many steps a classifier of prompts is learnt, which opens the artifact for those after what was
    forgotten alone; 0: it has none
    """

    alpha: float = Field(default=10.0, gt=0)
    lam: float = Field(default=1.0, gt=0)
    chosen: Literal["fisher", "random"] = "fisher"
    compat: Literal["paper", "official"] = "paper"
    batch: int = Field(default=64, ge=1)
    sample: int = Field(default=0, ge=0)
    views: int = Field(default=8, ge=1)
    layers: Layers = "all"
    shots: int = Field(default=16, ge=1)
    looks: int = Field(default=4, ge=1)
    templates: list[str] = list(TEMPLATES)
    forget: Examples = []
    retain: Examples = []
    length: int = Field(default=256, ge=2)
    texts: int = Field(default=400, ge=1)
    classifier: int = Field(default=1500, ge=0)


class SSD(Forgetting):
    """Modules, pictures, text: weights that matter most to what is to be forgotten are dampened; nothing is trained.

    Of a model that draws or writes they are those of its blocks' linear layers, and the change lies beside them, opened
    by the prompt.
    """

    name = "ssd"
    generating = True
    Settings = SSDSettings
    MakeSettings = SSDMakeSettings

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """The change: of a module always open, of a denoiser with the policy's gate."""
        if self.host.generates == "tensors":
            return always_open(self)
        assert self.artifact is not None
        return Terms(self, read_artifact(self.artifact, layers), self.gate())

    @hookimpl
    def hidden_states(self, layers: LayerIndex) -> Within:
        """The change beside a language model's layers, and what opens it."""
        assert self.artifact is not None
        tensors = self.artifact.tensors()
        opens = opened_by(self.guard, read_gate(self.artifact, tensors), self.settings.threshold)
        return Within(self, opens, read_beside(tensors, layers))

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """By what the model generates."""
        kinds = {"images": of_pictures, "text": of_texts}
        generates = getattr(task.host, "generates", "")
        return kinds[generates](task) if generates in kinds else super().learn(task)

    @classmethod
    def peers(cls) -> dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]]:
        """Single examples' gradients by a loop, and what the authors' code has in their place, of the embedded nets."""
        found: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {}
        for kind in ("resnet", "vit"):
            net: Any = load_model("emoji-classifier", variant=kind)
            net.requires_grad_(True)
            examples = load_examples(net.folder)
            some = examples.of("train")[:128]
            given = net, examples.inputs[some], examples.labels[some]
            ours = partial(_flat, per_sample, *given)
            found[f"a pass for each example, {kind}"] = ours, partial(_flat, of_batches, *given, batch=1)
            found[f"a pass for the batch, {kind}"] = ours, partial(_flat, of_batches, *given, batch=len(some))
        return found

    @classmethod
    def measure(cls, lesson: Lesson, settings: Any) -> dict[str, Tensor]:
        """F_D, of all examples or of those that stand for them."""
        return _drawn(lesson, settings)[1]

    @classmethod
    def forget(cls, lesson: Lesson, settings: Any) -> dict[str, Any]:
        """As above."""
        with lesson.task.bar(2) as tick:
            every, own = _information(lesson, settings, tick)
            tick(1)
        change = factors(every, own, settings.alpha, settings.lam, settings.chosen == "random")
        with torch.no_grad():
            for name, parameter in lesson.net.named_parameters():
                parameter.mul_(change[name])
        return counted(change)


def _information(
    lesson: Lesson, settings: Any, tick: Callable[[int], None]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """F_D and F_f. What a sample of all examples estimates is of those to be retained alone: the others' part of F_D
    may be large, and decides whether alpha times as much can be reached."""
    places, drawn = _drawn(lesson, settings)
    tick(0)
    if len(places) == len(lesson.labels):
        return drawn, _fisher(lesson, lesson.forget, settings)
    among = torch.isin(lesson.forget, places)
    parts = lesson.forget[among], lesson.forget[~among]
    sums = [_fisher(lesson, part, settings) if len(part) else {} for part in parts]
    every, own, n = {}, {}, len(lesson.forget)
    for name, one in drawn.items():
        inside, outside = (len(part) * found.get(name, torch.zeros(())) for part, found in zip(parts, sums))
        retained = (len(places) * one - inside).clamp_min(0) / (len(places) - len(parts[0]))
        own[name] = (inside + outside) / n
        every[name] = (n * own[name] + len(lesson.retain) * retained) / len(lesson.labels)
    return every, own


def _drawn(lesson: Lesson, settings: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Places of examples, whatever of them is to be forgotten, and their Fisher information."""
    official = settings.compat == "official"
    places = lesson.spread(0 if official else settings.sample)
    return places, lesson.kept("fisher", places, lambda: _fisher(lesson, places, settings),
                               batch=settings.batch if official else 1)  # fmt: skip


def _fisher(lesson: Lesson, places: Tensor, settings: Any) -> dict[str, Tensor]:
    some = lesson.inputs[places], lesson.labels[places]
    if settings.compat == "official":
        return of_batches(lesson.net, *some, batch=settings.batch)
    return per_sample(lesson.net, *some)


def _flat(fisher: Callable[..., dict[str, Tensor]], *given: Any, **more: Any) -> Tensor:
    return torch.cat([one.flatten() for one in fisher(*given, **more).values()])
