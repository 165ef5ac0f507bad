"""SSD in models that draw or write: which weights matter is told by their own losses, and dampening becomes terms.

A denoiser's loss is of the noise in pictures that it draws itself of the concept, and of what must stay; a language
model's, of the next token of texts to forget and to retain. What must stay stands for everything that it learned from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.formats import to_kohya
from conceptguard.formats.beside import write_beside
from conceptguard.making.encoded_texts import EncodedTexts
from conceptguard.making.shots import Shots
from conceptguard.making.task import Learned, Opens
from conceptguard.making.templates import check_window
from conceptguard.runtime.lowrank import Factors

from ...diffusion.trained_layers import layers_of
from ...language.classifier.examples import Example
from ...language.lessons import Lessons, demand_lessons, learned_from, unlikely
from ...language.terms_beside import blocks_of, turned
from ..fisher import of_layers
from .dampening import counted, factors

if TYPE_CHECKING:
    from conceptguard.making.task import Task

# Losses of some examples, [n], the next ones at each call.
Losses = Callable[[], Tensor]


def dampened(task: Task, names: list[str], own: Losses, kept: Losses, batches: int) -> tuple[dict[str, Factors], Any]:
    """Terms that dampen weights of some layers, and for the manifest how many weights they are. Raises ArtifactError
    where there are none."""
    s, weight = task.settings, task.host.weights()
    layers: dict[str, Any] = {name: task.host.layers()[name] for name in names}
    found: list[dict[str, Tensor]] = []
    with task.bar(2 * batches) as tick:
        for place, losses in enumerate((kept, own)):
            total: dict[str, Tensor] = {}
            for number in range(batches):
                for name, one in of_layers(layers, losses).items():
                    total[name] = total[name] + one if number else one
                tick(place * batches + number)
            found.append(total)
    change = factors(found[0], found[1], s.alpha, s.lam, s.chosen == "random")
    told = counted(change)
    if not told["dampened"]:
        raise ArtifactError(f"{task.label}: no weight matters {s.alpha:g} times as much to it: give a smaller alpha")
    return {
        name: Factors(torch.eye(one.shape[1]), ((one - 1) * weight(name).to(one)).float().cpu())
        for name, one in change.items() if bool((one < 1).any())
    }, told  # fmt: skip


def plain(layers: Any, names: list[str]) -> list[str]:
    """Those that are linear layers by themselves. Raises PolicyError where there are none."""
    found = [name for name in names if type(layers[name]) is nn.Linear]
    if not found:
        raise PolicyError("this model has no linear layers of its own in its blocks, which ssd dampens")
    return found


def of_pictures(task: Task) -> Learned:
    """A denoiser's. Raises PolicyError where nothing is to stay."""
    s, host = task.settings, task.host
    task.check(s.templates)
    own, kept = task.own(s.templates), task.kept(s.templates)
    if not kept:
        raise PolicyError(f"{task.label}: against what does it matter? Give preserve: what else the model draws")
    check_window(host, [*own, *kept])
    denoiser, random = host.denoiser(), torch.Generator().manual_seed(task.seed)
    names = plain(host.layers(), layers_of(host.layers().shapes(), s.layers))
    nothing = host.encode([""])

    def losses(prompts: list[str]) -> Losses:
        texts = EncodedTexts(host, prompts)
        shots = Shots.drawn(denoiser, texts, nothing, s.shots, random)

        def some() -> Tensor:
            now = shots.some(s.views)
            said = denoiser(now.latents, now.times, texts.rows(now.texts)).float()
            return (said - now.wanted.float()).pow(2).flatten(1).mean(1)

        return some

    with denoiser.frozen():
        terms, told = dampened(task, names, losses(own), losses(kept), -(-s.shots * s.looks // s.views))
    tensors, metadata = to_kohya(terms)
    return Learned(tensors, task.made(seed=task.seed, **told), Opens(own, kept), metadata=metadata)


def of_texts(task: Task) -> Learned:
    """A language model's. Raises PolicyError without texts to forget and to retain."""
    s = task.settings
    host: Any = task.host
    forget, retain = demand_lessons(task, "ssd")
    speaker, random = host.speaker(), torch.Generator().manual_seed(task.seed)
    within = blocks_of(host.text_layers())
    names = plain(host.layers(), [name for block in within.values() for name in block.values()])

    def losses(examples: list[Example]) -> Losses:
        lessons = Lessons(host.tokenizer, examples, s.length, speaker.device)

        def some() -> Tensor:
            batch = lessons.draw(s.views, random)
            return unlikely(speaker(batch.ids, batch.mask), batch) / batch.lengths.clamp_min(1)

        return some

    with speaker.frozen():
        terms, told = dampened(task, names, losses(forget), losses(retain), s.texts // s.views or 1)
    tensors, metadata = write_beside(terms, [name for name in terms if turned(host, name)])
    return learned_from(task, retain, tensors, metadata, **told)
