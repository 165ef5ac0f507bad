"""Starts the enforcement. Where anything is missing the server does not start: a policy is never half in force."""

from __future__ import annotations

import inspect
import logging
import os
from pathlib import Path

import execution
import folder_paths

from conceptguard import load_policy
from conceptguard.errors import ConceptGuardError
from conceptguard.policy import Policy
from conceptguard.policy_file import acting
from conceptguard.registry import default_registry

from . import denoiser_lock, executor, exits, pictures
from .audit import Audit, keep

VARIABLE, AUDIT, TRUST = "CONCEPTGUARD_ENFORCE", "CONCEPTGUARD_AUDIT", "CONCEPTGUARD_TRUST"
# The core's places that enforcement hangs on, and what they are given there.
PLACES = {
    "execute": ["server", "dynprompt", "caches", "current_item", "extra_data", "executed", "prompt_id",
                "execution_list", "pending_subgraph_results", "pending_async_nodes", "ui_outputs"],
    "_async_map_node_over_list": ["prompt_id", "unique_id", "obj", "input_data_all", "func"],
    "get_output_from_returns": ["return_values", "obj"],
    "CacheEntry": ["ui", "outputs"],
    "validate_prompt": ["prompt_id", "prompt"],
}  # fmt: skip


def start() -> str:
    """Put the policy in force; its name. Raises ConceptGuardError where it cannot be."""
    policy = load_policy(os.environ[VARIABLE])
    looks = bool(acting(policy, "check_image").guards)
    _check_server(looks)
    _check_policy(policy)
    named = os.environ.get(AUDIT)
    path = Path(named) if named else Path(folder_paths.get_user_directory()) / "conceptguard-audit.jsonl"
    try:
        audit = Audit(path, policy.name)
    except OSError as error:
        raise ConceptGuardError(f"{path}: cannot be written ({error.strerror}): give another file in {AUDIT}") from None
    trusted = frozenset(name.strip() for name in os.environ.get(TRUST, "").split(",") if name.strip())
    denoiser_lock.lock_all()
    executor.hook(executor.Rules(policy, looks, trusted), audit)
    keep(audit)
    if looks:
        pictures.look_at_every_decode(policy)
        exits.close()
    logging.info("ConceptGuard: policy '%s' is in force for every prompt; audit in %s", policy.name, path)
    return policy.name


def _check_server(looks: bool) -> None:
    """Raises ConceptGuardError for a core that is not as this was made for."""
    import comfy.cli_args
    import comfy.patcher_extension

    missing = [
        name
        for name, given in PLACES.items()
        if list(inspect.signature(getattr(execution, name, None) or (lambda: None)).parameters)[: len(given)] != given
    ]
    if missing or not hasattr(comfy.patcher_extension.WrappersMP, "OUTER_SAMPLE"):
        raise ConceptGuardError(
            f"this ComfyUI has no {', '.join(missing) or 'wrapper around sampling'} as in the versions that enforcement"
            " was tried on: see the documentation, and use one of those"
        )
    preview = getattr(comfy.cli_args.args.preview_method, "value", "none")
    if looks and preview != "none":
        raise ConceptGuardError(
            f"the policy looks at images, and previews of what is being drawn (--preview-method {preview}) are sent "
            "before anything can look at them: start without previews"
        )


def _check_policy(policy: Policy) -> None:
    """A guard whose terms beside the text encoder would not act must not seem to."""
    for guard in policy.guards:
        if guard.artifact:
            keys = default_registry().load(guard.artifact).tensors()
            if any(key.startswith(("lora_te", "text_encoder")) for key in keys):
                raise ConceptGuardError(
                    f"guard '{guard.label}' changes the text encoder as well, which cannot be enforced for graphs of "
                    "others: use an artifact of the denoiser alone"
                )
