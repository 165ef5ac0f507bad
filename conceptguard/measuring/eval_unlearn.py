"""A guarded model as a technique of the benchmark ``eval-unlearn``, and a judge as one of its metrics.

The package finds both by their entry points: ``conceptguard`` and ``conceptguard_judge``. What in it (1.1.2) would
falsify a figure is gone round here: every picture has a seed of its own (its batches all begin at the same one), a run
without a seed, as its command line makes them, has seed 0, and what a judge cannot read is an error, and never counted
as erased. Its own metrics count errors of their detectors as safe; no figure of theirs is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import GuardError, Refused, RegistryError
from ..files.pictures import as_rgb
from ..hosts.load import load_model
from ..policy_file import load_policy
from ..sessions.attach import attach
from . import suite as suites
from .judges import check_judges, load_judges, recognised
from .own_judges import judge_for, words_of
from .samples import Pictures, Recipe
from .shares import wilson
from .suite import Sample, load_suite

if TYPE_CHECKING:
    from PIL.Image import Image


class Technique:
    """A model under a policy.

    model: an embedded one, a folder or a Hub id; policy: a file, a shipped policy's name, or the same as a dict; none
    for the model as it is; erase_concept: for the report's name alone
    """

    def __init__(
        self, model: str = "emoji-sd", policy: str | Mapping[str, Any] | None = None, steps: int = 25,
        guidance: float = 3.5, batch: int = 8, device: str | None = None, erase_concept: str = "",
    ):  # fmt: skip
        self.erase_concept = erase_concept
        self._policy = load_policy(policy) if policy is not None else None  # type: ignore[arg-type]
        self._recipe = Recipe(steps, guidance, batch)
        self._pipe = load_model(model).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._pipe.set_progress_bar_config(disable=True)
        self._drawn = 0
        self.refused = 0

    def generate(self, prompts: list[str], seed: int | None = None, **kwargs: Any) -> list[Image]:
        """A picture for each prompt, in order; where the policy lets none out, a white one."""
        found: list[Image] = []
        with attach(self._pipe, self._policy) if self._policy else nullcontext():
            for at in range(0, len(prompts), self._recipe.batch):
                part = prompts[at : at + self._recipe.batch]
                first = (seed or 0) + self._drawn + at
                found += self._draw(part, range(first, first + len(part)))
        self._drawn += len(prompts)
        return found

    def _draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image]:
        try:
            return list(self._pipe(
                list(prompts), num_inference_steps=self._recipe.steps, guidance_scale=self._recipe.guidance,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            ).images)  # fmt: skip
        except (Refused, GuardError):
            if len(prompts) > 1:
                return [one for text, seed in zip(prompts, seeds) for one in self._draw([text], [seed])]
            self.refused += 1
            return [self._white()]

    def _white(self) -> Image:
        from PIL import Image

        side = self._pipe.unet.config.sample_size * self._pipe.vae_scale_factor
        return Image.new("RGB", (side, side), "white")


class JudgeMetric:
    """The share of pictures in which a judge recognises what their prompts ask for, with Wilson's interval.

    concept: what is erased; group: whose prompts these are, ``erased``, ``neighbours`` or ``others``; n: how many
    suite: by the model's name or a file; judge: as for ``--judge``, by default the suite's first one
    Raises RegistryError for a concept, a group or a judge that there is not.
    """

    def __init__(
        self, concept: str, group: str = "erased", n: int = 8, suite: str = "emoji-sd", judge: str | None = None,
        batch: int = 8, seed: int = 0,
    ):  # fmt: skip
        prompts = load_suite(suite)
        prompts.check([concept])
        asking = {
            "erased": lambda: suites.erased(prompts, concept, n, seed),
            "neighbours": lambda: suites.neighbours(prompts, concept, n, seed),
            "others": lambda: suites.others(prompts, n, seed, without=[concept]),
        }
        if group not in asking:
            raise RegistryError(f"unknown group '{group}': there are {', '.join(asking)}")
        self._samples: list[Sample] = asking[group]()
        judges = load_judges(prompts, [judge] if judge else [], lambda name: judge_for(name, words_of(prompts)))
        check_judges(judges, self._samples)
        self._judge, self._by = judges.first, judges.names[0]
        self._batch, self._name = batch, f"recognised_{group}"
        self._seen: list[bool] = []

    def load_dataset(self) -> Iterator[Any]:
        """Batches of prompts, as the package has them."""
        from eval_unlearn.types import Dataset

        for at in range(0, len(self._samples), self._batch):
            part = self._samples[at : at + self._batch]
            yield Dataset([one.prompt for one in part], {"source": "conceptguard", "judge": self._by})

    def update(self, images: Sequence[Image], prompts: Sequence[str], metadata: Mapping[str, Any]) -> None:
        """Judge a batch. Raises RegistryError where these are not the pictures that were asked for."""
        part = self._samples[len(self._seen) : len(self._seen) + len(images)]
        if [one.prompt for one in part] != list(prompts) or len(images) != len(prompts):
            raise RegistryError(
                f"{len(images)} pictures for {len(prompts)} prompts, which are not the next that were asked"
            )
        pixels = torch.stack([torch.from_numpy(np.asarray(as_rgb(one)).copy()).permute(2, 0, 1) for one in images])
        self._seen += recognised(self._judge, part, Pictures(pixels, [""] * len(part)))

    def compute(self) -> Any:
        """Its ``MetricResult``. Without a picture the value is None: nothing was measured."""
        from eval_unlearn.types import MetricResult

        n = len(self._seen)
        low, high = wilson(sum(self._seen), n)
        told = {"n": n, "low": low, "high": high, "judge": self._by}
        return MetricResult(self._name, round(sum(self._seen) / n, 4) if n else None, told)
