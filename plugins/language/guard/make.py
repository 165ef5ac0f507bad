"""Making GUARD's artifact from forget and retain examples."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.making.task import Learned, Task
from conceptguard.method import Settings

from ..classifier.examples import EXAMPLES, Examples, parts
from ..classifier.learn import calibrated, learn
from .spans import NGRAMS, Spans
from .states import LAYER, learn_states, states_of
from .words import Meanings

ANCHOR = "The same text gives the same states wherever the weights are the same."
MISSED_AT_MOST = 0.2


class GuardMakeSettings(Settings):
    """How a forget set is made.

    forget: prompts and answers that are to be forgotten, as JSON lines with "prompt" and "answer" in a file, or a list
    retain: prompts that are to be answered as before, the same way; "answer" may be missing
    beta: the share of a span's tokens from which it counts as said (1.0 as published)
    ngrams: how many words the longest span has
    reads: what the classifier reads of a prompt: its words, or as published the model's hidden states
    steps, lr: of the classifier's optimiser; lr: 0.1 for words, 0.002 for states
    """

    forget: Examples = []
    retain: Examples = []
    beta: float = Field(default=1.0, gt=0, le=1)
    ngrams: int = Field(default=NGRAMS, ge=1)
    reads: Literal["words", "states"] = "words"
    steps: int = Field(default=1500, ge=1)
    lr: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _of_its_kind(self) -> GuardMakeSettings:
        self.lr = self.lr or (0.1 if self.reads == "words" else 2e-3)
        return self


def learn_forget_set(task: Task) -> Learned:
    """Train the classifier on prompts, and hash the answers' spans.

    ``task.preserve`` are more prompts that are to be answered as before. Raises PolicyError without forget or retain
    examples, ArtifactError when prompts that were not learned from cannot be told apart.
    """
    settings, host = task.settings, task.host
    forget = settings.forget
    retain = [*(example.prompt for example in settings.retain), *task.preserve]
    if not forget or not all(example.answer for example in forget):
        raise PolicyError(f"making guard: forget: give prompts with answers, in a file of {EXAMPLES}")
    if not retain:
        raise PolicyError("making guard: retain: give prompts that are to be answered as before, or all are forgotten")
    if host.generates != "text":
        raise PolicyError(f"guard is for language models, and {host.name} writes no text")
    answers = list(dict.fromkeys(example.answer for example in forget))
    # Tied to what it hashes, so that the same examples give the same artifact, and no two artifacts the same hashes.
    salt = hashlib.sha256(json.dumps([task.seed, task.concept.name, answers]).encode()).digest()[:16]
    train = _by_words if settings.reads == "words" else _by_states
    prompts = [example.prompt for example in forget], retain
    classifier, measured = train(host, prompts, settings, salt, task.seed, task.bar)
    if measured["missed"] > MISSED_AT_MOST:
        raise ArtifactError(
            f"{task.label}: {measured['missed']:.0%} of forget prompts that were not learned from are missed: give "
            "more of them, in more wordings, or more steps"
        )
    spans = Spans.of(answers, begun(host, settings.beta), settings.ngrams, salt)
    tensors = {
        **{f"classifier.{name}": tensor for name, tensor in classifier.items()},
        **spans.tensors(),
        **Meanings.of_texts(answers).tensors(),
    }
    made = {
        "settings": settings.model_dump(exclude={"forget", "retain"}), "seed": task.seed, "forget_prompts": len(forget),
        "retain_prompts": len(retain), "answers": len(answers), "examples": _mark(settings, task.preserve), **measured,
    }  # fmt: skip
    return Learned(tensors, made)


def _by_words(
    host: Any, prompts: tuple[list[str], list[str]], settings: Any, salt: bytes, seed: int, bar: Any
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Learned from four fifths of the prompts; the others set its threshold, and say what it misses and flags there."""
    (own, own_apart), (kept, kept_apart) = map(parts, prompts)
    with bar(settings.steps) as tick:
        found = learn(own, kept, salt, settings.steps, settings.lr, seed, tick)
        found = calibrated(found, own_apart, kept_apart)
    logits = [torch.tensor([found.logit(text) for text in texts]) for texts in (own_apart, kept_apart)]
    return found.tensors(), _wrong(*logits)


def _by_states(
    host: Any, prompts: tuple[list[str], list[str]], settings: Any, salt: bytes, seed: int, bar: Any
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """As published: the threshold is one half. The anchor tells whose states they are."""
    with bar(sum(map(len, prompts))) as tick:
        own, kept = states_of(host, prompts[0], tick), states_of(host, prompts[1], tick, len(prompts[0]))
    (own, own_apart), (kept, kept_apart) = parts(own), parts(kept)
    with bar(settings.steps) as tick:
        net = learn_states(own, kept, settings.steps, settings.lr, seed, tick)
    anchor = host.pool([host.tokenizer(ANCHOR).input_ids], LAYER)[0].cpu()
    return {**net.state_dict(), "anchor": anchor}, _wrong(net(own_apart), net(kept_apart))


def _wrong(own: Tensor, kept: Tensor) -> dict[str, float]:
    """Shares of forget prompts missed and of prompts to retain flagged, by their logits."""
    missed, flagged = (own < 0).float().mean(), (kept >= 0).float().mean()
    return {"missed": round(float(missed), 4), "flagged": round(float(flagged), 4)}


def begun(host: Any, beta: float) -> Callable[[str], str]:
    """A span -> as many of its first tokens as beta asks for."""

    def cut(span: str) -> str:
        ids = host.vocabulary.encode([f" {span}"])[0]
        return span if beta == 1 else str(host.vocabulary.decode(ids[: math.ceil(beta * len(ids) - 1e-9)]))

    return cut


def _mark(settings: Any, preserve: Sequence[str]) -> str:
    """A short mark of the examples, which are not kept."""
    examples = [[e.prompt, e.answer] for e in (*settings.forget, *settings.retain)]
    return hashlib.sha256(json.dumps([examples, list(preserve)]).encode()).hexdigest()[:16]
