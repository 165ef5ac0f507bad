"""UCE: what the model reads of a concept becomes what it reads of its guide, in closed form.

Gandikota et al., "Unified Concept Editing in Diffusion Models", WACV 2024.
"""

from __future__ import annotations

from functools import partial

from pydantic import Field

from conceptguard.formats import base_weights_of, read_artifact
from conceptguard.making.edits import Tokens, read_rows, rows_of_each, solve, streams_of, tensors_of, wordings
from conceptguard.making.task import Learned, Opens, Task
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.lowrank import LayerIndex, Terms


class UCEMakeSettings(Settings):
    """How an edit is solved.

    lamb: pull towards the old weights [0.5 in the authors' code]
    erase_scale, preserve_scale: weights of erased and of kept rows [1 and 1]
    tokens: "tail", from the concept's last token to the end of padding, since a causal encoder carries the concept on
        [the authors' first code]; "last", that token alone [their code of 2025]
    templates: what the concept's prompts are put into, {} or with an article {a} [the bare prompt]
    """

    lamb: float = Field(default=0.5, gt=0)
    erase_scale: float = Field(default=1.0, gt=0)
    preserve_scale: float = Field(default=1.0, ge=0)
    tokens: Tokens = "tail"
    templates: list[str] = ["{}"]


class UCE(Method):
    """Pictures: a solved edit of what the model reads of a prompt; made in seconds, without training.

    A closed-form edit as low-rank terms, gated by the prompt unless the policy says ``gate: always``.
    """

    name = "uce"
    several = True
    MakeSettings = UCEMakeSettings

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """The edit's terms on every layer that reads text."""
        assert self.artifact is not None
        factors = read_artifact(self.artifact, layers, base_weights=base_weights_of(layers))
        return Terms(self, factors, self.gate())

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Solve an edit of every layer that reads text. The concept is mapped to its replacement, or to nothing.

        Raises ArtifactError when there is no solution.
        """
        s = task.settings
        task.check(s.templates)
        streams = streams_of(task.host)
        words, kept = [w for one in task.each for w in wordings(one, s.templates)], task.kept(s.templates)
        rows = rows_of_each(task, s.templates, kept, partial(read_rows, task.host, tokens=s.tokens))
        edits = {kind: solve(rows[kind], s.lamb, s.erase_scale, s.preserve_scale) for kind in rows}
        ranks = {stream.kind: len(edits[stream.kind].down) for stream in streams}
        return Learned(
            tensors_of(edits, streams),
            task.made(rank=ranks["states"], ranks=ranks),
            Opens([w.own for w in words], kept),
        )
