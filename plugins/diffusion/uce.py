"""UCE: what the model reads of a concept becomes what it reads of its guide, in closed form.

Gandikota et al., "Unified Concept Editing in Diffusion Models", WACV 2024.
"""

from __future__ import annotations

from conceptguard.making.edits import Problem, solve
from conceptguard.making.task import Learned, Task

from .closed_form import ClosedForm, EditSettings


class UCEMakeSettings(EditSettings):
    """How an edit is solved.

    lamb: pull towards the old weights [0.5 in the authors' code]
    erase_scale, preserve_scale: weights of erased and of kept rows [1 and 1]
    tokens: "tail", from the concept's last token to the end of padding, since a causal encoder carries the concept on
        [the authors' first code]; "last", that token alone [their code of 2025]
    templates: what the concept's prompts are put into, {} or with an article {a} [the bare prompt]
    """


class UCE(ClosedForm):
    """Pictures: a solved edit of what the model reads of a prompt; made in seconds, without training.

    A closed-form edit as low-rank terms, gated by the prompt unless the policy says ``gate: always``.
    """

    name = "uce"
    several = True
    MakeSettings = UCEMakeSettings

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Solve an edit of every layer that reads text. The concept is mapped to its replacement, or to nothing.

        Raises ArtifactError when there is no solution.
        """
        s = task.settings
        problem = Problem.of(task, s.templates, s.tokens)
        edits = {kind: solve(rows, s.lamb, s.erase_scale, s.preserve_scale) for kind, rows in problem.rows.items()}
        return problem.learned(edits)
