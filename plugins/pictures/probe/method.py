"""A last look at the image by a small classifier of one concept, made from pictures that the guarded model draws.

The judge of an embedded model is another network, with other training pictures: what guards is not what judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.generation.images import Images
from conceptguard.making.task import Learned, Task
from conceptguard.making.templates import TEMPLATES, fill
from conceptguard.markers import hookimpl
from conceptguard.measuring.samples import Recipe, make_groups_once
from conceptguard.measuring.suite import Sample
from conceptguard.method import Method, Settings
from conceptguard.receipt import Verdict
from conceptguard.runtime.encodings import ordinary_captions

from .net import ProbeNet, rimmed, train

if TYPE_CHECKING:
    from conceptguard.concept import Concept

FIRST_SEED = 70_000_000  # far from those that anything is judged with
HELD_OUT = 4  # every fourth picture tells the threshold and is not learned from


class ProbeSettings(Settings):
    """threshold: score from which an image is flagged; default: what was measured when the probe was made"""

    threshold: float | None = Field(default=None, gt=0, le=1)


class ProbeMakeSettings(Settings):
    """How a probe is made.

    images: pictures of the concept; as many again of ordinary captions, and of what is kept, of which each word has one
        at least
    draw_steps, guidance: of these pictures
    steps, lr: of the optimiser
    rims: how often each picture is learned from again with another one's middle, so that a rim of the concept counts as
        the concept; with twice as many steps
    templates: what prompts are put into, {} or with an article {a}
    """

    images: int = Field(default=96, ge=8)
    draw_steps: int = Field(default=25, ge=1)
    guidance: float = Field(default=3.5, ge=0)
    steps: int = Field(default=400, ge=1)
    lr: float = Field(default=4e-3, gt=0)
    rims: int = Field(default=0, ge=0)
    templates: list[str] = list(TEMPLATES)


class Probe(Method):
    """Pictures: looks at each finished picture for one concept, by a small trained classifier.

    Flags images in which its concept scores at the threshold or above. One verdict an image.
    """

    name = "probe"
    Settings = ProbeSettings
    MakeSettings = ProbeMakeSettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        assert self.artifact is not None
        made = self.artifact.manifest.made
        self.threshold = self.settings.threshold or made.get("threshold")
        tensors = self.artifact.tensors()
        try:
            self.net = ProbeNet(int(made["size"]), len(tensors["features.0.bias"]))
            self.net.load_state_dict({name: t.float() for name, t in tensors.items()})
        except (KeyError, RuntimeError) as error:
            raise ArtifactError(f"{self.artifact.ref} is no probe ({error}): make it again") from None
        if not isinstance(self.threshold, float):
            raise PolicyError(f"guard '{self.guard.label}': the probe has no threshold of its own: give one")
        self.net.eval().requires_grad_(False)
        self.detector = f"{self.artifact.ref} sha256 {self.artifact.manifest.files[0].sha256[:16]}"

    @hookimpl
    def check_image(self, images: Images) -> None:
        """The probability that the concept is there."""
        assert self.artifact is not None
        net = self.net.to(images.pixels.device)
        scores = net(images.pixels.float().clamp(0, 1)).sigmoid().tolist()
        if not all(isfinite(score) for score in scores):
            raise ValueError("an image is not finite, which no score can be given for")
        for i, score in enumerate(scores):
            label, flagged = self.artifact.manifest.concept.name, score >= self.threshold
            images.verdicts.append(Verdict(i, self.guard.label, label, score, flagged, [], self.detector))

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Draw pictures of the concept and of the rest, and learn to tell them apart.

        Raises PolicyError for a host that draws no pictures, ArtifactError when pictures kept apart cannot be told
        apart.
        """
        s = task.settings
        task.check(s.templates)
        if task.host.generates == "text":
            raise PolicyError(f"a probe learns from pictures, and {task.host.name} draws none")
        groups = enumerate(_prompts(task.concept, task.preserve, s.templates))
        counts = [s.images, max(s.images, len(task.preserve)), s.images]
        wanted = [_samples(prompts, i, counts[i]) for i, prompts in groups if prompts]
        with task.bar(sum(map(len, wanted))) as tick:
            drawn = _draw(task.host.target, wanted, Recipe(s.draw_steps, s.guidance), tick)
        with task.bar(s.steps) as tick:
            tensors, measured = cls.taught(
                drawn[0], torch.cat(drawn[1:]), task.concept.name, s.steps, task.seed, tick, s.lr, s.rims
            )
        return Learned(tensors, task.made(seed=task.seed, **measured))

    @classmethod
    def taught(
        cls, own: Tensor, kept: Tensor, name: str, steps: int, seed: int, tick: Any, lr: float = 4e-3, rims: int = 0
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors of a probe, and how it was measured, from pictures with the concept and without it, uint8
        [n, 3, h, w]. Raises ArtifactError when pictures kept apart cannot be told apart."""
        random = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = ProbeNet()
            own_part, kept_part = (_part(some, net.size, False) for some in (own, kept))
            mine, others = (
                torch.cat([part, *(rimmed(part, kept_part, random) for _ in range(rims))])
                for part in (own_part, kept_part)
            )
            train(net, mine, others, steps, lr, random, tick)
        own_part, kept_part = (_part(some, net.size, True) for some in (own, kept))
        measured = _measure(net, own_part, kept_part)
        if rims:
            halves = net(rimmed(own_part, kept_part, random)).sigmoid() < measured["threshold"]
            measured["rims_missed"] = round(float(halves.float().mean()), 4)
        if measured["missed"] > 0.5:
            raise ArtifactError(
                f"the probe for '{name}' misses {measured['missed']:.0%} of pictures kept apart: give more images or "
                "steps, or prompts that the model can draw"
            )
        return {key: t.half() for key, t in net.state_dict().items()}, {"size": net.size, **measured}


def _prompts(concept: Concept, preserve: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Of the concept, of what is kept, and ordinary ones that do not name it."""
    groups = [_in_turn(words, templates) for words in (concept.prompts, preserve)]
    return [*groups, ordinary_captions(without=concept.prompts)]


def _in_turn(words: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Each word once before any comes again, in another template each time, as its neighbours are."""
    n = len(templates)
    # The last summand: else what is held out, every fourth, would be of the same few templates.
    return [fill(templates[(turn + i + i // n) % n], word) for turn in range(n) for i, word in enumerate(words)]


def _samples(prompts: Sequence[str], group: int, count: int) -> list[Sample]:
    """``count`` pictures to draw: every prompt in turn, each time with another seed."""
    first = FIRST_SEED + 1_000_000 * group
    return [Sample(prompts[i % len(prompts)], first + i, "object", "") for i in range(count)]


def _draw(pipe: Any, groups: Sequence[Sequence[Sample]], recipe: Recipe, tick: Any) -> list[Tensor]:
    """The pictures of each group, uint8 [count, 3, h, w]."""
    done = 0

    def tell(n: int) -> None:
        nonlocal done
        done += n
        tick(done - 1)

    return [made.pixels for made in make_groups_once(pipe, groups, recipe, tell)]


def _part(pictures: Tensor, size: int, held_out: bool) -> Tensor:
    """Pictures in [0, 1] at the probe's size: those it learns from, or those kept apart."""
    mine = [i for i in range(len(pictures)) if (i % HELD_OUT == 0) == held_out]
    return torch.nn.functional.interpolate(pictures[mine].float() / 255, (size, size), mode="bilinear", antialias=True)


@torch.no_grad()
def _measure(net: ProbeNet, own: Tensor, kept: Tensor) -> dict[str, float]:
    """A threshold above everything that is kept, where the concept allows, and what it gets wrong."""
    mine, others = net(own).sigmoid(), net(kept).sigmoid()
    threshold = min(max(0.5, float(others.quantile(0.99)) + 0.02), 0.98)
    wrong = {"missed": (mine < threshold), "flagged": (others >= threshold)}
    return {"threshold": round(threshold, 4), **{name: round(float(w.float().mean()), 4) for name, w in wrong.items()}}
