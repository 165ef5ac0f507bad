"""A task as equations: the streams of a model, the rows of each, and from solved edits back to an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..task import Learned, Opens, Task
from .each import rows_of_each
from .rows import Kind, Rows, Tokens, Wording, read_rows, wordings
from .solver import Edit
from .streams import Stream, streams_of, tensors_of


@dataclass
class Problem:
    """What is to be solved. words: each concept in every template; kept: what stays, in every template.

    rows: of every stream, by its kind
    """

    task: Task
    streams: list[Stream]
    words: list[Wording]
    kept: list[str]
    rows: dict[Kind, Rows]

    @classmethod
    def of(cls, task: Task, templates: Sequence[str], tokens: Tokens) -> Problem:
        """Raises PolicyError for texts that cannot be erased or kept, ArtifactError for a model without such layers."""
        task.check(templates)
        streams = streams_of(task.host)
        words, kept = [w for one in task.each for w in wordings(one, templates)], task.kept(templates)
        rows = rows_of_each(task, templates, kept, partial(read_rows, task.host, tokens=tokens))
        return cls(task, streams, words, kept, {stream.kind: rows[stream.kind] for stream in streams})

    def learned(self, edits: Mapping[Kind, Edit], **made: Any) -> Learned:
        """The artifact of one edit for each stream. made: how, for the manifest."""
        ranks = {stream.kind: len(edits[stream.kind].down) for stream in self.streams}
        made = self.task.made(rank=max(ranks.values()), ranks=ranks, **made)
        tensors, metadata = tensors_of(edits, self.streams)
        return Learned(tensors, made, self.opens, metadata=metadata)

    @property
    def opens(self) -> Opens:
        """What opens the artifact's gate, and what must not."""
        return Opens([w.own for w in self.words], self.kept)
