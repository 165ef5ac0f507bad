"""Layers of a language model that are trained to forget: all of a maker but its formula.

A formula is shown a few texts to forget and as many to retain, and gives what is to be made smaller. What is learnt are
changes of the decoder's linear layers, as low-rank terms beside them or whole; embeddings, norms and the head stay.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.formats.beside import write_beside
from conceptguard.making.loop import Loop
from conceptguard.making.task import Learned
from conceptguard.making.terms import TermsInTraining, cut_to_rank
from conceptguard.method import Settings

from .classifier.examples import Example, Examples
from .lessons import Batch, Lessons, demand_lessons, learned_from, next_own
from .terms_beside import TermsBeside, blocks_of, turned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conceptguard.making.loop import Ended
    from conceptguard.making.task import Task
    from conceptguard.protocols import Speaker
    from conceptguard.runtime.lowrank import Factors

Layers = Literal["all", "attention", "mlp"]


class LessonSettings(Settings):
    """How layers are trained.

    The papers train all weights at a rate of 1e-5, for ten epochs of batches of 32.

    forget: prompts and answers that are to be forgotten, as JSON lines with "prompt" and "answer" in a file, or a list;
    of one without an answer all its text is
    retain: the same of what is to stay
    layers: linear layers of the blocks; "attention", those that attend; "mlp", the others; "all", both
    rank: of the change, learnt as factors; null learns whole matrices
    cut: whole matrices are cut to this rank once they are learnt, the nearest one of it; null keeps them
    steps, batch: optimiser steps, and texts of either kind in each
    accumulate: so many times as many texts in each step, one batch after the other, for little memory
    lr: of Adam
    length: how many tokens of a text are read
    retain_weight: of what keeps the rest, against what forgets
    classifier: in how many steps a classifier of prompts is learnt, which opens the artifact for those after what was
    forgotten alone; 0: it has none [as published: new weights, for every prompt]
    """

    forget: Examples = []
    retain: Examples = []
    layers: Layers = "all"
    rank: int | None = Field(default=16, ge=1)
    cut: int | None = Field(default=None, ge=1)
    steps: int = Field(default=300, ge=1)
    batch: int = Field(default=16, ge=1)
    accumulate: int = Field(default=1, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    length: int = Field(default=256, ge=2)
    retain_weight: float = Field(default=1.0, ge=0)
    classifier: int = Field(default=1500, ge=0)


@dataclass
class Teaching:
    """What a formula may ask.

    speaker: the model; blocks: its blocks by their numbers, each with its linear layers by their names within
    tokenizer: of both; terms: what is learnt, shut for what the model was; forget, retain: all texts
    """

    speaker: Speaker
    tokenizer: Any
    blocks: Mapping[int, Mapping[str, str]]
    terms: TermsInTraining
    forget: Lessons
    retain: Lessons

    def say(self, batch: Batch, learnt: bool) -> Tensor:
        """Scores of the next tokens, [texts, tokens, vocabulary], with what was learnt, or as if nothing was."""
        self.terms.open(len(batch.ids) if learnt else 0)
        return self.speaker(batch.ids, batch.mask)

    def lens(self, batch: Batch) -> Tensor:
        """What the head reads of the next tokens in every layer with what was learnt, [layers, n, vocabulary], where
        these are of what is learnt. The embeddings, which nothing changes, are no layer."""
        self.terms.open(len(batch.ids))
        return self.speaker.lens(batch.ids, batch.mask, next_own(batch))[1:]

    def states(self, batch: Batch, block: str, learnt: bool) -> Tensor:
        """What a block gives, [texts, tokens, width], likewise."""
        self.terms.open(len(batch.ids) if learnt else 0)
        return self.speaker.states(batch.ids, batch.mask, block)


# Some texts to forget and some to retain -> what is to be made smaller, with gradients.
Formula = Callable[[Batch, Batch], Tensor]


class TrainedText(TermsBeside):
    """Terms beside a language model's layers, trained by a formula. Subclass, formula."""

    MakeSettings = LessonSettings

    @classmethod
    def formula(cls, task: Task, teaching: Teaching, random: torch.Generator) -> Formula:
        """The paper's, for this model. random: what else is drawn once, the same at every taking up"""
        raise NotImplementedError

    @classmethod
    def trained(cls, settings: Any, blocks: Mapping[int, Mapping[str, str]]) -> list[str]:
        """Names of the layers that terms are trained beside."""
        return layers_of(blocks, settings.layers)

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Train to the end, from the last snapshot where there is one.

        Raises PolicyError without texts to forget and to retain, and where nothing can be trained, ArtifactError when
        the loss is no number, SessionError for what is no decoder-only language model.
        """
        s, host = task.settings, task.host
        if host.generates != "text":
            raise PolicyError(f"{cls.name} is for language models, and {host.name} writes no text")
        _, retain = demand_lessons(task, cls.name)
        terms, ended = cls._train(task, retain)
        learnt, lost = cut_to_rank({n: t for n, t in terms.items() if bool(t.up.any())}, s.cut)
        if not learnt:
            raise ArtifactError(f"{task.label}: nothing was learnt: give another lr (now {s.lr:g}), or more steps")
        tensors, metadata = write_beside(learnt, [name for name in learnt if turned(host, name)])
        return learned_from(
            task, retain, tensors, metadata, started_at_step=ended.first, loss=round(ended.value, 6),
            lost_by_cutting=round(lost, 4),
        )  # fmt: skip

    @classmethod
    def _train(cls, task: Task, retain: list[Example]) -> tuple[dict[str, Factors], Ended]:
        s = task.settings
        host: Any = task.host
        speaker, layers = host.speaker(), host.layers()
        blocks = blocks_of(host.text_layers())
        # two: what a formula draws is drawn again by a training that is taken up, before its state is restored
        random, once = torch.Generator().manual_seed(task.seed), torch.Generator().manual_seed(task.seed + 1)
        terms = TermsInTraining(layers, cls.trained(s, blocks), s.rank, random)
        forget, kept = (Lessons(host.tokenizer, some, s.length, speaker.device) for some in (s.forget, retain))
        snapshot = task.snapshot()
        with ExitStack() as meanwhile:
            parameters = meanwhile.enter_context(terms.attached([speaker]))
            formula = cls.formula(task, Teaching(speaker, host.tokenizer, blocks, terms, forget, kept), once)
            tick = meanwhile.enter_context(task.bar(s.steps))
            loop = Loop(task.label, parameters, torch.optim.Adam(parameters, lr=s.lr), random, s.steps, snapshot,
                        reports=[tick, *task.reports], accumulate=s.accumulate, every=50)  # fmt: skip
            ended = loop.run(lambda number: formula(forget.draw(s.batch, random), kept.draw(s.batch, random)))
            found = terms.changes()
        snapshot.remove()
        return found, ended


def layers_of(blocks: Mapping[int, Mapping[str, str]], which: Layers) -> list[str]:
    """Names of linear layers that ``which`` means. Raises PolicyError when there are none."""
    every = [(within.split(".")[0], name) for layers in blocks.values() for within, name in layers.items()]
    attends = {name: "attn" in part or "attention" in part for part, name in every}
    found = [name for name in attends if which == "all" or attends[name] == (which == "attention")]
    if not found:
        raise PolicyError(f"this model has no layers '{which}' that terms are trained beside")
    return found
