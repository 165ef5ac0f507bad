"""alpha / rank, wherever a file or the configuration beside it keeps it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from conceptguard.errors import ArtifactError


class Alphas:
    """Scales for layers that carry no alpha of their own: from a peft configuration, or from diffusers'
    metadata.
    """

    def __init__(self, metadata: Mapping[str, str], config: Mapping[str, Any] | None, alpha: float | None) -> None:
        self.alpha = alpha
        self.configs: dict[str, dict[str, Any]] = {"": dict(config)} if config else {}
        packed = metadata.get("lora_adapter_metadata")
        if packed:
            for key, value in _json(packed).items():
                component, _, field = str(key).partition(".")
                self.configs.setdefault(component, {})[field] = value
        elif not config and metadata.get("adapter_config"):
            self.configs[""] = _json(metadata["adapter_config"])
        for settings in self.configs.values():
            if settings.get("use_dora"):
                raise ArtifactError("the file is a DoRA, which is not a sum of low-rank terms: convert it to a LoRA")

    def scale(self, layer: str, rank: int) -> float:
        """alpha / rank of a layer whose file holds no alpha; 1 when nothing says otherwise (alpha = rank)."""
        component, _, inner = layer.partition(".")
        settings = self.configs.get(component) or self.configs.get("") or {}
        alpha = self.alpha if self.alpha is not None else settings.get("lora_alpha")
        for pattern, value in (settings.get("alpha_pattern") or {}).items():
            if inner == pattern or inner.endswith(f".{pattern}") or _matches(pattern, inner):
                alpha = value
                break
        if alpha is None:
            return 1.0
        return checked(alpha, layer) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def checked(alpha: Any, layer: str) -> float:
    """alpha as a float; raises ArtifactError when it is not a finite number."""
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise ArtifactError(f"layer {layer!r}: alpha is {alpha!r:.40}, not a finite number: make the file again")
    return float(alpha)


def _json(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise ArtifactError("the LoRA configuration in the file's metadata is not a JSON mapping: make the file again")
    return fields


def _matches(pattern: str, layer: str) -> bool:
    # peft reads keys of alpha_pattern as regular expressions. From a stranger's file only the harmless kind
    # is run.
    if len(pattern) > 200 or re.search(r"[*+?{(|]", pattern):
        return False
    try:
        return re.search(rf"(^|\.){pattern}\Z", layer) is not None
    except re.error:
        return False
