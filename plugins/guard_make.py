"""Making GUARD's artifact from forget and retain examples."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import Tensor

from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.making import as_concept, make_settings, place, progress_bar, write
from conceptguard.method import Settings

from .guard_classifier import LAYER, Pool, PromptClassifier, train
from .guard_spans import NGRAMS, Spans
from .guard_words import Meanings

if TYPE_CHECKING:
    from conceptguard.method import Method
    from conceptguard.registry import Artifact

ANCHOR = "The same text gives the same states wherever the weights are the same."
HELD_OUT = 5  # every fifth prompt is not learned from, and measures
MISSED_AT_MOST = 0.2
AT_ONCE = 64
EXAMPLES = 'lines such as {"prompt": "Where was Ada Oram born?", "answer": "Ada Oram was born in Velmar."}'


class Example(BaseModel):
    """A prompt, and for what is to be forgotten its answer."""

    model_config = ConfigDict(extra="forbid")
    prompt: str
    answer: str = ""


class GuardMakeSettings(Settings):
    """How a forget set is made.

    forget: prompts and answers that are to be forgotten, as JSON lines with "prompt" and "answer" in a file, or a list
    retain: prompts that are to be answered as before, the same way; "answer" may be missing
    beta: the share of a span's tokens from which it counts as said (1.0 as published)
    ngrams: how many words the longest span has
    pool: what the classifier reads of a prompt: its most telling token, or as published the mean of all
    steps, lr: of the classifier's optimiser
    """

    forget: list[Example] = []
    retain: list[Example] = []
    beta: float = Field(default=1.0, gt=0, le=1)
    ngrams: int = Field(default=NGRAMS, ge=1)
    pool: Pool = "max"
    steps: int = Field(default=1500, ge=1)
    lr: float = Field(default=2e-3, gt=0)

    @field_validator("forget", "retain", mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        return read_examples(Path(given).expanduser()) if isinstance(given, (str, Path)) else given


def read_examples(path: Path) -> list[Example]:
    """Examples from a file of JSON lines. Raises PolicyError naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: cannot be read ({error}): give a file of {EXAMPLES}") from None
    found = []
    for i, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(Example.model_validate_json(line))
            except ValidationError:
                raise PolicyError(f"{path}, line {i}: not an example: write {EXAMPLES}") from None
    return found


def make(
    method: type[Method],
    host: Any,
    concept: Any,
    out: Path,
    *,
    preserve: Sequence[str] = (),
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Artifact:
    """Train the classifier on prompts, hash the answers' spans, and write the artifact. host: of a language model.

    preserve: more prompts that are to be answered as before. Raises PolicyError without forget or retain examples,
    ArtifactError when prompts that were not learned from cannot be told apart.
    """
    settings = make_settings(method, options)
    concept = as_concept(concept)
    forget = settings.forget
    retain = [*(example.prompt for example in settings.retain), *preserve]
    if not forget or not all(example.answer for example in forget):
        raise PolicyError(f"making guard: forget: give prompts with answers, in a file of {EXAMPLES}")
    if not retain:
        raise PolicyError("making guard: retain: give prompts that are to be answered as before, or all are forgotten")
    if not hasattr(host, "states"):
        raise PolicyError(f"guard is for language models, and {host.name} writes no text")
    started = time.perf_counter()
    label = f"guard {concept.name}"
    with progress_bar(label, len(forget) + len(retain), progress) as tick:
        own = _states(host, [example.prompt for example in forget], tick, 0)
        kept = _states(host, retain, tick, len(own))
    net, measured = _classifier(own, kept, settings, seed, progress, label)
    answers = list(dict.fromkeys(example.answer for example in forget))
    # Tied to what it hashes, so that the same examples give the same artifact, and no two artifacts the same hashes.
    salt = hashlib.sha256(json.dumps([seed, concept.name, answers]).encode()).digest()[:16]
    spans = Spans.of(answers, host.tongue.encode, settings.beta, settings.ngrams, salt)
    tensors = {
        **{f"classifier.{name}": tensor for name, tensor in net.state_dict().items()},
        **spans.tensors(),
        **Meanings.of_texts(answers).tensors(),
        "anchor": host.pool([host.tokenizer(ANCHOR).input_ids], LAYER)[0],
    }
    made = {
        "settings": settings.model_dump(exclude={"forget", "retain"}), "seed": seed, "forget_prompts": len(forget),
        "retain_prompts": len(retain), "answers": len(answers), "examples": _mark(settings, preserve), **measured,
        "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip
    filename = f"{place(method.name, host, concept, out).name}.safetensors"
    return write(method.name, host, concept, out, tensors, made, (), None, filename=filename)


def _states(host: Any, prompts: Sequence[str], tick: Any, done: int) -> list[Tensor]:
    """Hidden states of prompts, [tokens, width] each, many of one length at once."""
    ids = [host.tokenizer(prompt).input_ids for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    found: list[Tensor] = [torch.empty(0)] * len(ids)
    for start in range(0, len(order), AT_ONCE):
        part = order[start : start + AT_ONCE]
        for i, states in zip(part, host.states([ids[i] for i in part], LAYER)):
            found[i] = states.cpu()
        tick(done + start + len(part) - 1, 0.0)
    return found


def _classifier(
    own: list[Tensor], kept: list[Tensor], settings: Any, seed: int, progress: bool, label: str
) -> tuple[PromptClassifier, dict[str, float]]:
    """Trained on four fifths of the prompts, measured on the others."""
    (own_seen, own_apart), (kept_seen, kept_apart) = _parts(own), _parts(kept)
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), progress_bar(label, settings.steps, progress) as tick:
        torch.manual_seed(seed)
        net = PromptClassifier(own[0].shape[1], settings.pool)
        train(net, own_seen, kept_seen, settings.steps, settings.lr, random, tick)
    with torch.no_grad():
        missed = float((net(own_apart) < 0).float().mean())
        false = float((net(kept_apart) >= 0).float().mean())
    if missed > MISSED_AT_MOST:
        raise ArtifactError(
            f"{label}: {missed:.0%} of forget prompts that were not learned from are missed: give more of them, in "
            "more wordings, or more steps"
        )
    return net, {"missed": round(missed, 4), "flagged": round(false, 4)}


def _parts(states: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """What is learned from, and what measures; too few to part are both."""
    apart = states[HELD_OUT - 1 :: HELD_OUT]
    seen = [one for i, one in enumerate(states) if i % HELD_OUT != HELD_OUT - 1]
    return (seen, apart) if apart else (states, states)


def _mark(settings: Any, preserve: Sequence[str]) -> str:
    """A short mark of the examples, which are not kept."""
    examples = [[e.prompt, e.answer] for e in (*settings.forget, *settings.retain)]
    return hashlib.sha256(json.dumps([examples, list(preserve)]).encode()).hexdigest()[:16]
