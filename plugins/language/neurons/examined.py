"""A model's neurons under examination: questions with true answers, what these lose without some, and by chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from conceptguard.errors import PolicyError
from conceptguard.method import Settings

from ..classifier.examples import Examples, parts
from .blocks import feed_forward_of
from .effect import heard, without
from .judged import Verdict, judged
from .terms import Neuron


class Examining(Settings):
    """What neurons are examined with.

    forget: prompts about the concept with their true answers; every fifth is not looked at and judges
    retain: the same about others, which are to stay
    layers: numbers of the layers that are looked into; default: all
    """

    forget: Examples = []
    retain: Examples = []
    layers: list[int] = []


class Neurons:
    """The feed-forward blocks of one model and what is asked about them.

    own, others: the examples that may be looked at; own_apart, others_apart: those that judge

    Raises PolicyError for a model that has no such blocks, a layer that is not there, and examples without answers.
    """

    def __init__(self, host: Any, s: Examining, what: str):
        if host.generates != "text":
            raise PolicyError(f"{what} is for language models, and {host.name} writes no text")
        self.host, self.what = host, what
        self.blocks = feed_forward_of(host, s.layers, what)
        self.widths = {block.number: int(host.layers()[block.down].in_features) for block in self.blocks}
        forget, retain = ([one for one in some if one.answer.strip()] for some in (s.forget, s.retain))
        if s.forget and not forget:
            raise PolicyError(f'{what}: forget: give each prompt its true answer: {{"prompt": ..., "answer": ...}}')
        self.own, self.own_apart = parts(forget)
        self.others, self.others_apart = parts(retain)

    def lost(self, neurons: Sequence[Neuron], tick: Any) -> list[float]:
        """What an answer about the concept loses without each neuron alone, in nats."""
        before, found = heard(self.host, self.own)[0], []
        for step, neuron in enumerate(neurons):
            away = without(self.blocks, self.widths, [neuron])
            found.append(before - heard(self.host, self.own, away)[0])
            tick(step, found[-1])
        return found

    def judge(self, neurons: Sequence[Neuron], seed: int) -> Verdict:
        """On what was not looked at, against as many at random."""
        return judged(self.host, self.blocks, self.widths, neurons, self.own_apart, self.others_apart, seed)
