"""DMM: what models would say that never saw an example is predicted, and the model is tuned to say that.

min over θ of  E_{forget ∪ retain} ‖ f_θ(x) − (f(x) − Σ_{i ∈ forget} τ(x)_i) ‖²

τ(x)_i, what training example i adds to the model's outputs on x, is of datamodels (``datamodels``), or of TRAK
(``trak``), which scores margins alone. Oracle matching puts models in their place that are trained without what is to
be forgotten: no way to forget, but what matching itself can reach.

Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel Matching" (arXiv 2410.23232). They match some of
what is retained, drawn once, three times as many as are forgotten: of one class here that is sixty, which are then
remembered and nothing else. All are drawn from here.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from conceptguard.making.fit import BATCH as FIT_BATCH
from conceptguard.making.fit import Recipe, anew, fit
from conceptguard.measuring.classifier.measures import margin_of

from .datamodels import BATCH, Datamodels, sources_of, train_side_by_side
from .forgetting import ForgetSettings, Forgetting
from .lesson import Lesson, measured
from .trak import trak


class DMMMakeSettings(ForgetSettings):
    """How a retrained model's outputs are predicted, and matched. In brackets what the authors use.

    scores: "datamodel", "trak", or "oracle": the model itself is trained again, `oracles` times, without what is to go
    trainings, epochs: of the small models that datamodels are fitted on [thousands]
    oracles, oracle_epochs, oracle_lr: how the model itself is trained again [10 models]
    steps, batch, lr: of the matching, by Adam [5 epochs, 512, 5e-4]; a quarter of a batch is of what is to be forgotten
    """

    scores: Literal["datamodel", "trak", "oracle"] = "datamodel"
    trainings: int = Field(default=320, ge=8)
    epochs: int = Field(default=24, ge=1)
    oracles: int = Field(default=3, ge=1)
    oracle_epochs: int = Field(default=24, ge=1)
    oracle_lr: float = Field(default=4e-3, gt=0)
    steps: int = Field(default=150, ge=1)
    batch: int = Field(default=64, ge=4)
    lr: float = Field(default=2e-3, gt=0)


class DMM(Forgetting):
    """Modules: predicts what a classifier trained without some examples would say, and tunes it to say that."""

    name = "dmm"
    MakeSettings = DMMMakeSettings

    @classmethod
    def measure(cls, lesson: Lesson, settings: Any) -> dict[str, Tensor]:
        """The trainings, where datamodels are asked."""
        return {"logits": _datamodels(lesson, settings).logits} if settings.scores == "datamodel" else {}

    @classmethod
    def forget(cls, lesson: Lesson, settings: Any) -> dict[str, Any]:
        """As above."""
        s, net = settings, lesson.net
        with torch.no_grad():
            before = torch.cat([net(part) for part in lesson.inputs.split(256)])
        goal = {"datamodel": _by_datamodels, "trak": _by_trak, "oracle": _by_oracles}[s.scores](lesson, s, before)

        def loss(step: int) -> Tensor:
            some = torch.cat([lesson.some(lesson.forget, s.batch // 4), lesson.some(lesson.retain, 3 * s.batch // 4)])
            given, labels = lesson.seen(some)
            said = net(given)
            return (said if goal.ndim == 2 else margin_of(said, labels)).sub(goal[some]).pow(2).mean()

        ended = lesson.tune(loss, s.steps, s.lr)
        return {"loss": round(ended.value, 4)}


def _datamodels(lesson: Lesson, settings: Any) -> Datamodels:
    """Trainings on parts of the examples, which know nothing of what is to be forgotten, nor of the model: they are
    kept for whatever is asked next."""
    keys = [lesson.examples.keys[i] for i in lesson.examples.of("train").tolist()]
    sources, n, epochs = sources_of(keys, lesson.labels), settings.trainings, settings.epochs
    classes = lesson.net(lesson.inputs[:1]).shape[1]

    def train() -> dict[str, Tensor]:
        with lesson.task.bar(epochs * -(-len(keys) // BATCH), f", {n} trainings") as tick:
            found = train_side_by_side(lesson.inputs, lesson.labels, sources, classes, n, epochs, tick=tick)
        return {"logits": found.logits, "there": found.there}

    data = hashlib.sha256(lesson.inputs.float().cpu().numpy().tobytes() + lesson.labels.cpu().numpy().tobytes())
    about = {"what": "datamodels", "data": data.hexdigest(), "keys": keys, "classes": classes, "trainings": n}
    found = measured(about | {"epochs": epochs}, train)
    return Datamodels(found["logits"], found["there"], sources)


def _by_datamodels(lesson: Lesson, settings: Any, before: Tensor) -> Tensor:
    """What is predicted for every example, [n, classes]."""
    found = _datamodels(lesson, settings)
    return before + found.change(found.sources.of(lesson.forget)).to(before)


def _by_trak(lesson: Lesson, settings: Any, before: Tensor) -> Tensor:
    """The margin that is predicted for every example, [n]."""
    scores = trak(lesson.net, lesson.inputs, lesson.labels, lesson.random)
    return margin_of(before, lesson.labels) - scores[:, lesson.forget].sum(1)


def _by_oracles(lesson: Lesson, settings: Any, before: Tensor) -> Tensor:
    """The mean of what models say that never saw what is to be forgotten, [n, classes]."""
    s, found = settings, []
    inputs, labels = lesson.inputs[lesson.retain], lesson.labels[lesson.retain]
    for number in range(s.oracles):
        seed = int(torch.randint(2**31, (), generator=lesson.random))
        fresh = anew(lesson.net, seed)
        with lesson.task.bar(s.oracle_epochs * -(-len(labels) // FIT_BATCH), f", oracle {number + 1}") as tick:
            fit(fresh, inputs, labels, Recipe(s.oracle_epochs, s.oracle_lr), seed, tick)
        with torch.no_grad():
            found.append(torch.cat([fresh(part) for part in lesson.inputs.split(256)]))
    return torch.stack(found).mean(0)
