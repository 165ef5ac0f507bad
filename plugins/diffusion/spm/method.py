"""SPM: rank-1 membranes beside linear and convolution layers, opened by the prompt.

Lyu et al., "One-dimensional Adapter to Rule Them All: Concepts, Diffusion Models and Erasing Applications", CVPR 2024.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from conceptguard.concept import as_concept, check_preserve
from conceptguard.formats import read_artifact, to_kohya
from conceptguard.making.maker import make_settings, place, write
from conceptguard.making.progress import progress_bar
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.gates import Gate
from conceptguard.runtime.lowrank import LayerIndex, Terms

from .train import SPMMakeSettings, Training

if TYPE_CHECKING:
    from conceptguard.host import Host
    from conceptguard.registry import Artifact


class SPMSettings(Settings):
    """compat: "paper" adds membranes linearly in their gates; "official" reproduces the authors' inference code."""

    compat: Literal["paper", "official"] = "paper"


class SPM(Method):
    """A membrane per concept: rank-1 terms from an official or own ``*_last.safetensors``."""

    name = "spm"
    Settings = SPMSettings
    MakeSettings = SPMMakeSettings

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
    def make(
        cls,
        host: Host,
        concept: Any,
        out: Path,
        *,
        preserve: Sequence[str] = (),
        seed: int = 0,
        steps: int | None = None,
        progress: bool = True,
        report: Callable[[int, float], None] | None = None,
        **options: Any,
    ) -> Artifact:
        """Train a membrane and write it to ``out/<family>/spm/<name>`` as ``<name>_last.safetensors``.

        preserve: what stands near the concept and must stay; options: see SPMMakeSettings. An interrupted call is
        taken up where it was when it is called again with the same arguments. Raises PolicyError for what cannot be
        trained on, ArtifactError when training fails.
        """
        settings = make_settings(cls, options, steps=steps)
        concept = as_concept(concept)
        check_preserve(concept, preserve)
        folder = place(cls.name, host, concept, out)
        training = Training(host, concept, preserve, settings, seed, folder.parent / f".{folder.name}.training")
        started = time.perf_counter()
        with progress_bar(f"spm {concept.name}", settings.steps, progress) as tick:
            factors = training.run([tick, *([report] if report else [])])
        tensors, _ = to_kohya(factors)
        # The format splits its prompts at commas and knows no escape.
        prompts = ",".join(p.replace(",", " ") for p in concept.prompts)
        metadata = {"prompts": prompts, "rank": str(settings.rank), "alpha": str(settings.alpha)}
        made = {
            "settings": settings.model_dump(), "seed": seed, "preserve": list(preserve),
            "seconds": round(time.perf_counter() - started, 1), "started_at_step": training.first,
        }  # fmt: skip
        return write(
            cls.name, host, concept, out, tensors, made, training.texts.kept, training.texts.own,
            filename=f"{folder.name}_last.safetensors", metadata=metadata,
        )  # fmt: skip
