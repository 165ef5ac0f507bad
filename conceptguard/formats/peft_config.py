"""peft's configuration of an adapter: what of it changes what the tensors mean, and what does not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from conceptguard.errors import ArtifactError

# Which of peft's adapters are read, from tensors whose keys say the same.
_TYPES = {"LORA", "LOHA", "LOKR"}
# Options that leave alone what the stored factors add: training, where to put them, how they were begun.
_HARMLESS = {
    "alpha", "alpha_pattern", "auto_mapping", "base_model_name_or_path", "corda_config", "decompose_both",
    "decompose_factor", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "init_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout",
    "lora_ga_config", "megatron_config", "megatron_core", "module_dropout", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_dropout", "rank_dropout_scale", "rank_pattern", "revision", "runtime_config",
    "target_modules", "task_type", "use_dora", "use_effective_conv2d", "use_rslora",
}  # fmt: skip
# How a training began. The others (pissa, olora, corda, loftq, lora_ga) take their first factors off the base's
# weights, which the file does not bring.
_BEGINNINGS = {"", "true", "false", "none", "gaussian", "eva", "orthogonal"}
_WHOLE_MODULES = ("modules_to_save", "trainable_token_indices")


def check_config(config: Mapping[str, Any]) -> None:
    """Raises ArtifactError, by its name, for an option under which the factors are not simply added."""
    kind = str(config.get("peft_type") or "LORA").rsplit(".", 1)[-1].upper()
    if kind not in _TYPES:
        raise ArtifactError(f"the file is peft's {kind}, which is not read: convert it to a plain LoRA")
    start = str(config.get("init_lora_weights", "")).lower()
    if start not in _BEGINNINGS:
        raise ArtifactError(
            f"the LoRA was begun by {start[:40]!r}, which changes the base's weights as well: save it with "
            "path_initial_model_for_weight_conversion, as peft's documentation of that option says"
        )
    if config.get("bias") not in (None, "none"):
        raise ArtifactError(
            f"the LoRA brings biases (bias: {str(config['bias'])[:20]!r}), which are no terms: train it without"
        )
    for name in _WHOLE_MODULES:
        if config.get(name):
            raise ArtifactError(f"the LoRA brings whole modules ({name}), which are no terms: train it without them")
    for name, value in config.items():
        if (
            name not in _HARMLESS
            and name not in ("init_lora_weights", "bias")
            and value not in (None, False, "", [], {})
        ):
            raise ArtifactError(
                f"the LoRA has peft's option {str(name)[:60]!r}, under which its tensors may mean something else: "
                "convert it to a plain LoRA"
            )


def packed_configs(metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Configurations by component, as diffusers and others put them into a file's metadata."""
    configs: dict[str, dict[str, Any]] = {}
    packed = metadata.get("lora_adapter_metadata")
    if packed:
        for key, value in json_mapping(packed).items():
            component, _, field = str(key).partition(".")
            configs.setdefault(component, {})[field] = value
    elif metadata.get("adapter_config"):
        configs[""] = json_mapping(metadata["adapter_config"])
    return configs


def json_mapping(text: str) -> dict[str, Any]:
    """A JSON mapping from a file's metadata. Raises ArtifactError for anything else."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise ArtifactError("the LoRA configuration in the file's metadata is not a JSON mapping: make the file again")
    return fields
