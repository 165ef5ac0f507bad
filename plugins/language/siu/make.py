"""Trains terms beside the text model on what one picture is to be called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.formats.beside import write_beside
from conceptguard.making.loop import Loop
from conceptguard.making.task import Learned
from conceptguard.making.terms import TermsInTraining
from conceptguard.method import Settings

from ..seen.pictures import pictures_of
from ..terms_beside import turned
from .texts import GROUPS, Shown, Text, read_texts, texts_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conceptguard.making.task import Task


class SIUMakeSettings(Settings):
    """How it is trained. The paper takes 6 steps at 3e-4 of models a thousand times as large, and 4 texts a group.

    data: a folder of pictures, sorted into folders by what they show; default: those that the model comes with
    texts: what is to be said, as JSON lines in a file, or a list: each with prompt, answer, and its group: "name" and
    "description" of the picture, new ones, "fact", what is true of the concept without a picture, and "other", what is
    true of another one, and of which class it is, "shows"; default: of the embedded captioner's own words
    others: of these, how many other pictures are held
    rank: of the terms
    steps: of the optimiser, each with one text of each group
    lr: of Adam
    ce, dmk: weights of the two losses
    """

    data: str | None = None
    texts: list[Text] = []
    others: int = Field(default=16, ge=1)
    rank: int = Field(default=8, ge=1)
    steps: int = Field(default=60, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    ce: float = Field(default=0.9, ge=0)
    dmk: float = Field(default=0.75, ge=0)

    @field_validator("texts", mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        return read_texts(Path(given).expanduser()) if isinstance(given, (str, Path)) else given


class Row(NamedTuple):
    """A text as a model is given it. ids [tokens]; begin: where its answer does; before: what the model gave,
    log-probabilities [tokens, vocabulary]."""

    ids: Tensor
    begin: int
    pixels: Tensor | None
    before: Tensor


def learn_from_one_picture(task: Task) -> Learned:
    """Raises PolicyError for a concept that no picture shows, and for texts that are missing."""
    s: SIUMakeSettings = task.settings
    host: Any = task.host
    shown = pictures_of(task, s.data)
    texts = texts_of(task, s.texts, shown, s.others)
    speaker, sight, layers = host.speaker(), host.sight(), host.layers()
    names = [name for name in layers if name.startswith(f"{sight.decoder}.")]
    if not names:
        raise PolicyError(f"{task.label}: the text model has no linear layers that terms are trained beside")
    rows = {group: [_row(host, sight, speaker, one) for one in texts[group]] for group in GROUPS}
    hidden = _tokens(host, task.concept.prompts)
    random = torch.Generator().manual_seed(task.seed)
    terms = TermsInTraining(layers, names, s.rank, random)

    def loss(number: int) -> Tensor:
        some = [rows[group][int(torch.randint(len(rows[group]), (), generator=random))] for group in GROUPS]
        terms.open(len(some))
        own, kept = losses(some, _say(speaker, some, host), hidden)
        return s.ce * own + s.dmk * kept

    with terms.attached([speaker]) as parameters, task.bar(s.steps) as tick:
        loop = Loop(task.label, parameters, torch.optim.Adam(parameters, lr=s.lr), random, s.steps,
                    reports=[tick, *task.reports])  # fmt: skip
        ended = loop.run(loss)
        learnt = {name: one for name, one in terms.changes().items() if bool(one.up.any())}
    if not learnt:
        raise ArtifactError(f"{task.label}: nothing was learnt: give another lr (now {s.lr:g}), or more steps")
    tensors, metadata = write_beside(learnt, [name for name in learnt if turned(host, name)])
    made = task.made(seed=task.seed, loss=round(ended.value, 6), **{f"{g}_texts": len(rows[g]) for g in GROUPS})
    made["settings"].pop("texts")
    return Learned(tensors, made, metadata=metadata)


def losses(rows: Sequence[Row], scores: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the answers, and the dual masked divergence from what the model was.

    scores: [texts, tokens, vocabulary]; hidden: tokens of the concept's name, whose entries are left out
    """
    own, apart = [], []
    for row, found in zip(rows, scores):
        after, said = found[: len(row.ids) - 1].log_softmax(-1), row.ids[1:]
        own.append(F.nll_loss(after[row.begin - 1 :], said[row.begin - 1 :]))
        # Where the text says something else than the model did, what it was is what shall go.
        held = row.before[:-1].argmax(-1) == said
        held[: row.begin - 1] = True
        before, after = (_without(one, hidden) for one in (row.before[:-1], after))
        apart.append((before.exp() * (before - after)).sum(-1)[held].mean() if held.any() else after.sum() * 0)
    return torch.stack(own).mean(), torch.stack(apart).mean()


def _without(logs: Tensor, hidden: Tensor) -> Tensor:
    """Log-probabilities [tokens, vocabulary] over the entries that are left."""
    left = torch.ones(logs.shape[-1], dtype=torch.bool, device=logs.device)
    left[hidden] = False
    return logs[:, left].log_softmax(-1)


def _tokens(host: Any, prompts: Sequence[str]) -> Tensor:
    """The vocabulary's entries of names, after a space and without one."""
    ways = [host.tokenizer(text, add_special_tokens=False).input_ids for one in prompts for text in (f" {one}", one)]
    return torch.tensor(sorted({token for ids in ways for token in ids}))


def _row(host: Any, sight: Any, speaker: Any, shown: Shown) -> Row:
    picture = None if shown.picture is None else shown.picture[None]
    head = sight.read([shown.text.prompt], picture)
    tail = host.tokenizer(f" {shown.text.answer}", add_special_tokens=False).input_ids
    end = [host.tokenizer.eos_token_id] if host.tokenizer.eos_token_id is not None else []
    first = head["input_ids"][0]
    ids = torch.cat([first, first.new_tensor([*tail, *end])])
    pixels = head.get("pixel_values")
    with torch.no_grad():
        before = speaker(ids[None], torch.ones_like(ids)[None], pixels)[0].log_softmax(-1)
    return Row(ids, len(first), pixels, before)


def _say(speaker: Any, rows: Sequence[Row], host: Any) -> Tensor:
    """Scores [texts, tokens, vocabulary], padded on the right."""
    width = max(len(row.ids) for row in rows)
    short, fill = [(0, width - len(row.ids)) for row in rows], host.tokenizer.pad_token_id or 0
    ids = torch.stack([F.pad(row.ids, end, value=fill) for row, end in zip(rows, short)])
    mask = torch.stack([F.pad(torch.ones_like(row.ids), end) for row, end in zip(rows, short)])
    seen = [row.pixels for row in rows if row.pixels is not None]
    found: Tensor = speaker(ids, mask, torch.cat(seen) if seen else None)
    return found
