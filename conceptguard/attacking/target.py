"""A guarded pipeline as attacks may ask it: see ``conceptguard.attack.Target``."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ..attack import Ask, Attempt
from ..errors import GuardError, Refused, SessionError
from ..measuring.judge import Assessor
from ..measuring.samples import Recipe
from ..measuring.suite import Suite
from ..protocols import Denoiser
from ..runtime.bank import running
from ..runtime.lowrank import LayerIndex
from ..sessions.session import Session


class GuardedTarget:
    """One concept of an attached session.

    examples: unguarded pictures of asks, by number, uint8 [n, 3, h, w]
    judge: that of the search, None for none; head: which of its answers is about the concept
    refused: how many pictures the policy did not let out
    """

    def __init__(
        self, pipe: Any, session: Session, suite: Suite, concept: str, vocabulary: Tensor, recipe: Recipe,
        examples: Mapping[int, Tensor], judge: Assessor | None, tick: Callable[[int], None] = lambda n: None,
    ):  # fmt: skip
        self.pipe, self.session, self.concept, self.vocabulary = pipe, session, concept, vocabulary
        self.words: Sequence[str] = suite.words(concept)
        self.others: Sequence[str] = suite.words_beside([concept])
        self.steps, self.guidance, self.batch = recipe.steps, recipe.guidance, recipe.batch
        self._examples, self._judge, self._tick = examples, judge, tick
        self._head = "style" if suite.is_style(concept) else "object"
        self.judged = judge is not None
        self.refused = 0

    @property
    def denoiser(self) -> Denoiser:
        """Raises SessionError where it is of a kind that nobody learns on."""
        return self.session.host.denoiser()

    @property
    def window(self) -> int:
        """How many tokens of a text are read."""
        return self.session.host.window

    def ids(self, text: str) -> list[int]:
        """Token ids without special tokens."""
        return list(self.session.host.tokens([text])[0])

    def text(self, ids: Sequence[int]) -> str:
        """As the tokenizer writes them."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    @property
    def _tokenizer(self) -> Any:
        return self.session.host.encoders()[0].tokenizer  # type: ignore[attr-defined]

    def vectors(self) -> Tensor:
        """Input vectors of all tokens, [tokens, hidden], float32."""
        return self.session.host.encoders()[0].vocabulary.float()

    def states(self, texts: Sequence[str]) -> Tensor:
        """What the unguarded encoder says, [rows, tokens, width], float32."""
        parts = [self.session.host.encode(list(texts[i : i + 64])).embeds for i in range(0, len(texts), 64)]
        return torch.cat(parts).float()

    def ending(self, text: str | Tensor) -> Tensor:
        """[width], float32."""
        host, encoder = self.session.host, self._clip()
        vectors = self.vectors()[self.ids(text)] if isinstance(text, str) else text
        token = running.set(host)  # no session's terms act on what is asked in its host's name
        try:
            with torch.enable_grad(), encoder.frozen():
                states, _ = encoder.differentiable([[]], vectors)
        finally:
            running.reset(token)
        assert states is not None
        return states[0, len(vectors) + 1].float()

    def endings(self, texts: Sequence[str]) -> Tensor:
        """[rows, width], float32."""
        encoder = self._clip()
        return encoder.vectors(encoder.ids(texts))[0]  # type: ignore[no-any-return]

    def _clip(self) -> Any:
        host = self.session.host
        encoders = host.encoders()
        if len(encoders) != 1 or not encoders[0].begins:
            raise SessionError(f"{host.name} has no single CLIP as its text encoder, which this attack searches in")
        return encoders[0]

    def guarded(self, text: str, latents: Tensor, timestep: int, vectors: Tensor | None = None) -> Tensor:
        """Under the policy, as in the step of a generation that is nearest to this timestep."""
        times = self.denoiser.timesteps(self.steps)
        step = min(range(len(times)), key=lambda i: abs(times[i] - timestep))
        return self.session.host.predict(text, latents, timestep, step, vectors)

    @torch.no_grad()
    def bare(self, text: str, latents: Tensor, timestep: int) -> Tensor:
        """Without the policy."""
        return self.session.host.predict(text, latents, timestep, guarded=False).detach()

    def example(self, ask: Ask) -> Tensor:
        """[3, h, w] in [0, 1]."""
        pictures = self._examples[ask.number].float() / 255
        return pictures[int(self.likeness(pictures).argmax()) if self.judged else 0]

    def likeness(self, pictures: Tensor) -> Tensor:
        """Probabilities or cosines of the search's judge, [n]. Raises SessionError where there is none."""
        if self._judge is None:
            raise SessionError("this search has no judge: give a second one with --judge")
        seen, styles = self._judge.judge(pictures.float()), self._head == "style"
        names, found = (self._judge.styles, seen.style_probs) if styles else (self._judge.objects, seen.object_probs)
        return found[:, names.index(self.concept)].float()

    def shows(self, pictures: Tensor) -> list[bool]:
        """[n]; none where there is no judge."""
        if self._judge is None:
            return [False] * len(pictures)
        seen = self._judge.judge(pictures.float())
        return [name == self.concept for name in (seen.styles if self._head == "style" else seen.objects)]

    def draw(self, attempt: Attempt, seed: int) -> Tensor | None:
        """[3, h, w] in [0, 1], or None."""
        return self.draw_all([(attempt, seed)])[0]

    def draw_all(self, wanted: Sequence[tuple[Attempt, int]]) -> list[Tensor | None]:
        """A picture for each attempt and seed; attempts of one kind in batches, see ``_kind``, and what no seed decides
        once. What a guard refuses is None, and alone so."""
        first: dict[int, int] = {}
        whose = [first.setdefault(id(one), i) if _seedless(one) else i for i, (one, _) in enumerate(wanted)]
        groups: dict[Hashable, list[int]] = {}
        for i in dict.fromkeys(whose):
            groups.setdefault(_kind(wanted[i][0]) or i, []).append(i)
        drawn: dict[int, Tensor | None] = {}
        for group in groups.values():
            for at in range(0, len(group), self.batch):
                some = group[at : at + self.batch]
                drawn |= zip(some, self._drawn([wanted[i] for i in some]))
        self._tick(len(wanted) - len(drawn))
        found = [drawn[i] for i in whose]
        self.refused += sum(one is None for one in found)
        return found

    def _drawn(self, some: Sequence[tuple[Attempt, int]]) -> list[Tensor | None]:
        made = self._let_out(lambda: self._made([attempt for attempt, _ in some], [seed for _, seed in some]))
        if made is None and len(some) > 1:
            return [one for part in some for one in self._drawn([part])]
        self._tick(len(some))
        return [None] if made is None else list(made)

    def _made(self, attempts: Sequence[Attempt], seeds: Sequence[int]) -> Tensor:
        """Of attempts of one kind, [n, 3, h, w]."""
        host, one = self.session.host, attempts[0]
        with self.knowing(one.words), host.wearing(one.lora):
            if not _composed(one):
                made = self._pipe([attempt.prompt for attempt in attempts], seeds)
            else:
                alone = [one.prompt] if one.prompt else []
                parts, weights = one.parts or alone, one.weights or [self.guidance] * len(alone)
                begun = [attempt.latents for attempt in attempts if attempt.latents is not None]
                made = host.compose(
                    parts, weights, _generators(seeds), self.steps, torch.stack(begun) if begun else None, one.begin,
                    one.eta,
                ).detach().float().cpu()  # fmt: skip
        return turned(made) if one.turned else made

    def _pipe(self, prompts: list[str], seeds: Sequence[int]) -> Tensor:
        made = self.pipe(
            prompts, num_inference_steps=self.steps, guidance_scale=self.guidance, output_type="pt",
            generator=_generators(seeds),
        ).images  # fmt: skip
        return made.detach().float().cpu()  # type: ignore[no-any-return]

    @staticmethod
    def _let_out(draw: Callable[[], Tensor]) -> Tensor | None:
        try:
            return draw()
        except (Refused, GuardError):  # nothing was generated, which is what a policy may do
            return None

    def knowing(self, words: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """As ``load_textual_inversion`` loads them, and without a trace afterwards."""
        return self.session.host.knowing(words)

    def layers(self) -> LayerIndex:
        """Under canonical names."""
        return self.session.host.layers()

    def tick(self, n: int = 1) -> None:
        """For the progress bar."""
        self._tick(n)


def turned(pictures: Tensor) -> Tensor:
    """A picture that was turned upside down, with red as green, green as blue and blue as red, as it was. pictures:
    [..., 3, h, w] in [0, 1]"""
    return pictures.roll(1, -3).flip(-2)


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def _composed(attempt: Attempt) -> bool:
    """Whether predictions are put together here, and not by the pipeline."""
    return bool(attempt.parts or attempt.latents is not None or attempt.eta)


def _seedless(attempt: Attempt) -> bool:
    return attempt.latents is not None and not attempt.eta


def _kind(attempt: Attempt) -> Hashable:
    """Attempts with the same one are drawn together. None for sums of prompts, whose rows no guard can tell apart by
    the picture that they are of."""
    known = tuple((word, id(vector)) for word, vector in attempt.words.items())
    about: tuple[Hashable, ...] = known, id(attempt.lora) if attempt.lora else 0, attempt.turned
    if not _composed(attempt):
        return about
    if len(attempt.parts) > 1:
        return None
    return (*about, attempt.prompt, *attempt.parts, *attempt.weights, attempt.latents is None, attempt.begin,
            attempt.eta)  # fmt: skip
