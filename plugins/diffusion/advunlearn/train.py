"""A text encoder that forgets a concept, and whatever an attack puts before its name, and keeps the rest.

    min over ΔW of  MSE(ε(z, τ'(c*)), ε∅ − η (ε_c − ε∅)) + w MSE(ε(z', τ'(r)), ε(z', τ(r))),    c* = the attack's

The attack looks for input vectors before the prompt with which the encoder τ' that forgets makes the denoiser predict
what it predicted for the concept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptguard.generation.conditioning import Encoded, stack
from conceptguard.making.encoded_texts import EncodedTexts
from conceptguard.making.loop import Loop
from conceptguard.making.noising import losses
from conceptguard.making.templates import check_window
from conceptguard.making.terms import TermsInTraining
from conceptguard.making.text_encoders import clip_encoders, conditions, layers_beside
from conceptguard.runtime.encodings import ordinary_captions

from .states import States, states_of

if TYPE_CHECKING:
    from conceptguard.making.task import Task
    from conceptguard.protocols import TextEncoder
    from conceptguard.runtime.lowrank import Factors


class Training:
    """One encoder in training; ``run`` takes an interrupted one up where it was.

    own, kept: texts of the concept, and of what stays
    """

    def __init__(self, task: Task):
        host, s, self.task = task.host, task.settings, task
        self.encoders, self.denoiser = clip_encoders(host, "advunlearn"), host.denoiser()
        self.own = task.own(s.templates)
        self.kept = task.kept(s.templates)
        self._retained = [*self.kept, *ordinary_captions(without=task.concept.prompts)]
        check_window(host, [*self.own, *self.kept])
        self._nothing = host.encode([""])
        self._concept, self._rest = EncodedTexts(host, self.own), EncodedTexts(host, self._retained)
        self.random = torch.Generator().manual_seed(task.seed)
        names = layers_beside(host.layers(), self.encoders, s.layers)
        self._terms = TermsInTraining(host.layers(), names, s.rank, self.random)
        self._attack = Attack(self.encoders, s.attack_tokens, self.random)
        self._snapshot = task.snapshot()
        self._states: tuple[States, States] | None = None

    def run(self, reports: Sequence[Callable[[int, float], None]]) -> dict[str, Factors]:
        """To the end. Each report(step, loss) after every step. Raises ArtifactError when the loss is not a number."""
        s = self.task.settings
        with self.denoiser.frozen(), self._terms.attached(self.encoders) as parameters:
            # States between two refreshes follow from the last snapshot, so none of them has to be kept.
            loop = Loop(
                self.task.label, parameters, torch.optim.Adam(parameters, lr=s.lr), self.random, s.steps,
                self._snapshot, s.refresh, self._attack.vectors, reports=reports,
            )  # fmt: skip
            loop.run(self._step)
            found = self._terms.changes()
        self._snapshot.remove()
        return found

    def _step(self, step: int) -> Tensor:
        s = self.task.settings
        if step % s.refresh == 0 or self._states is None:
            self._terms.open(0)
            self._states = (
                states_of(self.denoiser, self._concept, self._nothing, s, self.random),
                states_of(self.denoiser, self._rest, self._nothing, s, self.random),
            )
        own, rest = self._states
        attacked = step >= s.warmup and s.attack_steps > 0
        if attacked and (step - s.warmup) % s.attack_every == 0:
            self._attack.go_on(self._against(own), s.attack_steps, s.attack_lr)
        return self._loss(own, rest, attacked)

    def _against(self, own: States) -> Callable[[Sequence[Tensor]], Tensor]:
        """How far the prediction after an attack's vectors is from the concept's, on some states."""

        def distance(vectors: Sequence[Tensor]) -> Tensor:
            some = own.some(self.task.settings.batch, self.random)
            texts = self.encoded([self.own[i] for i in some.which], vectors)
            return losses(self.denoiser(some.latents, some.times, texts), some.towards).mean()

        return distance

    def _loss(self, own: States, rest: States, attacked: bool) -> Tensor:
        s = self.task.settings
        some, held = own.some(s.batch, self.random), rest.some(s.retain, self.random)
        goal = some.nothing - s.eta * (some.towards - some.nothing)
        texts = stack(
            self.encoded([self.own[i] for i in some.which], self._attack.vectors if attacked else None),
            self.encoded([self._retained[i] for i in held.which]),
        )
        said = self.denoiser(torch.cat([some.latents, held.latents]), torch.cat([some.times, held.times]), texts)
        forgotten, kept = losses(said[: s.batch], goal).mean(), losses(said[s.batch :], held.towards).mean()
        return forgotten + s.retain_weight * kept

    def encoded(self, texts: Sequence[str], vectors: Sequence[Tensor] | None = None) -> Encoded:
        """Texts as the encoder has them by now. vectors: that stand before each."""
        self._terms.open(len(texts))
        return conditions(self.encoders, texts, self._nothing, vectors)


class Attack:
    """Input vectors that stand before a prompt, [tokens, hidden] for each encoder, which go on from where they were."""

    def __init__(self, encoders: Sequence[TextEncoder], tokens: int, random: torch.Generator):
        self.vectors, self._sizes = [], []
        for encoder in encoders:
            words = encoder.vocabulary
            start = words[torch.randint(len(words), (tokens,), generator=random).to(words.device)]
            self.vectors.append(start.float().clone())
            self._sizes.append(float(words.float().std()))

    def go_on(self, distance: Callable[[Sequence[Tensor]], Tensor], steps: int, rate: float) -> float:
        """Some steps of Adam towards a smaller distance, each from gradients of its own; gives the last distance."""
        learnt = [vectors.clone().requires_grad_() for vectors in self.vectors]
        groups = [{"params": [one], "lr": rate * size} for one, size in zip(learnt, self._sizes)]
        optimiser, value = torch.optim.Adam(groups), float("nan")
        for _ in range(steps):
            found = distance(learnt)
            optimiser.zero_grad()
            torch.autograd.backward(found, inputs=learnt)
            optimiser.step()
            value = float(found.detach())
        for vectors, new in zip(self.vectors, learnt):
            vectors.copy_(new.detach())  # in place: a snapshot has them by identity
        return value
