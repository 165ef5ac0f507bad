"""SPM: rank-1 membranes beside linear and convolution layers, opened by the prompt.

Lyu et al., "One-dimensional Adapter to Rule Them All: Concepts, Diffusion Models and Erasing Applications", CVPR 2024.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from conceptguard.formats import read_artifact, to_kohya
from conceptguard.making.known import check_known
from conceptguard.making.preview import previews
from conceptguard.making.task import Learned, Opens, Task
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.gates import Gate
from conceptguard.runtime.lowrank import LayerIndex, Terms

from .train import SPMMakeSettings, Training


class SPMSettings(Settings):
    """compat: "paper" adds membranes linearly in their gates; "official" reproduces the authors' inference code."""

    compat: Literal["paper", "official"] = "paper"


class SPM(Method):
    """Pictures: a trained membrane that opens as far as a prompt resembles the concept, and erases it.

    Rank-1 terms for each concept, from an official or own ``*_last.safetensors``.
    """

    name = "spm"
    Settings = SPMSettings
    MakeSettings = SPMMakeSettings
    previews = True

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """The membrane's terms, gated by facilitated transport."""
        assert self.artifact is not None
        official = self.settings.compat == "official"
        gate = self._official_gate() if official else self.gate()
        return Terms(self, read_artifact(self.artifact, layers), gate, coupled=official)

    def _official_gate(self) -> Gate:
        gate = self.gate()
        return replace(gate, metric="official", floor=0.0, full=1.0, unread=None) if gate.prompts else gate

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Train a membrane, written as ``<name>_last.safetensors``. Raises ArtifactError when training fails."""
        s = task.settings
        task.check(s.templates)
        check_known(task)
        training = Training(task)
        with task.bar(s.steps) as tick:
            factors = training.run([tick, *task.reports, *previews(task, training.denoiser, training.open)])
        tensors, _ = to_kohya(factors)
        # The format splits its prompts at commas and knows no escape.
        prompts = ",".join(p.replace(",", " ") for p in task.concept.prompts)
        return Learned(
            tensors, task.made(seed=task.seed, started_at_step=training.first),
            Opens(training.texts.own, training.texts.kept),
            filename=f"{task.folder.name}_last.safetensors",
            metadata={"prompts": prompts, "rank": str(s.rank), "alpha": str(s.alpha)},
        )  # fmt: skip
