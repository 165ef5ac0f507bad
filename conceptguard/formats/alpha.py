"""alpha / rank, wherever a file or the configuration beside it keeps it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from conceptguard.errors import ArtifactError
from conceptguard.formats.patterns import matches
from conceptguard.formats.peft_config import check_config, packed_configs


class Alphas:
    """Scales of layers, from the file's own alphas, a peft configuration, or diffusers' metadata.

    common: a layer without an alpha, in a file that has some, takes the most frequent one of its component, as in
        diffusers; otherwise it counts as alpha = rank, as in kohya's scripts and ComfyUI.
    Raises ArtifactError for a configuration under which factors are not simply added.
    """

    def __init__(
        self,
        metadata: Mapping[str, str],
        config: Mapping[str, Any] | None,
        alpha: float | None,
        *,
        common: bool = False,
    ) -> None:
        self.alpha, self.common = alpha, common
        self.configs = {**({} if config else packed_configs(metadata)), **({"": dict(config)} if config else {})}
        self.given: dict[str, Counter[float]] = {}
        for settings in self.configs.values():
            check_config(settings)

    def count(self, component: str, alpha: Any) -> None:
        """Take note of an alpha that the file has, for layers that have none."""
        self.given.setdefault(component, Counter())[checked(alpha, component)] += 1

    def settings(self, component: str) -> dict[str, Any]:
        """The configuration for a component; empty where there is none."""
        return self.configs.get(component) or self.configs.get("") or {}

    def scale(self, layer: str, written: str, rank: int | None) -> float:
        """alpha / rank of a layer whose file holds no alpha; 1 when nothing says otherwise (alpha = rank).

        written: the layer in the file's words, in which patterns of a configuration speak; rank: None where the tensors
        do not show it
        """
        component, _, inner = layer.partition(".")
        settings = self.settings(component)
        names = (written.removeprefix("base_model.model.").removeprefix(f"{component}."), inner)
        alpha = self.alpha if self.alpha is not None else settings.get("lora_alpha", settings.get("alpha"))
        alpha = _patterned(settings.get("alpha_pattern"), names, alpha)
        if alpha is None and self.common and self.given.get(component):
            alpha = self.given[component].most_common(1)[0][0]
        if rank is None:
            rank = _patterned(settings.get("rank_pattern"), names, settings.get("r"))
        if alpha is None or rank is None:
            return 1.0
        rank = int(checked(rank, layer))
        if rank < 1:
            raise ArtifactError(f"layer {layer!r}: a rank of {rank}: make the file again")
        return checked(alpha, layer) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _patterned(patterns: Any, names: tuple[str, ...], otherwise: Any) -> Any:
    """The value of the first pattern that takes one of the names."""
    if patterns and not isinstance(patterns, Mapping):
        raise ArtifactError("a pattern in the LoRA's configuration is not a mapping: make the file again")
    for pattern, value in (patterns or {}).items():
        if any(matches(str(pattern), name) for name in dict.fromkeys(names)):
            return value
    return otherwise


def checked(alpha: Any, layer: str) -> float:
    """alpha as a float; raises ArtifactError when it is not a finite number."""
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise ArtifactError(f"layer {layer!r}: alpha is {alpha!r:.40}, not a finite number: make the file again")
    return float(alpha)
