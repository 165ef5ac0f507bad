"""Starts the enforcement: what the server must offer, the nodes that are put into graphs, and the handler that does so.

Where anything is missing the server does not start: an operator's policy is never half in force.
"""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io
from server import PromptServer
from torch import Tensor

import nodes
from conceptguard import load_policy
from conceptguard.errors import ConceptGuardError
from conceptguard.policy import Policy
from conceptguard.policy_file import acting
from conceptguard.registry import default_registry

from ..guard_nodes import guard_model
from ..image_nodes import check
from ..policy_node import KEEP
from . import denoiser_lock, graph
from .audit import Audit

VARIABLE, AUDIT, TRUST = "CONCEPTGUARD_ENFORCE", "CONCEPTGUARD_AUDIT", "CONCEPTGUARD_TRUST"
_policy = Policy()


def start() -> str:
    """Put the policy in force; its name. Raises ConceptGuardError where it cannot be."""
    global _policy
    _policy = load_policy(os.environ[VARIABLE])
    looks = bool(acting(_policy, "check_image").guards)
    _check_server(looks)
    _check_policy()
    named = os.environ.get(AUDIT)
    path = Path(named) if named else Path(folder_paths.get_user_directory()) / "conceptguard-audit.jsonl"
    try:
        audit = Audit(path, _policy.name)
    except OSError as error:
        raise ConceptGuardError(f"{path}: cannot be written ({error.strerror}): give another file in {AUDIT}") from None
    trusted = frozenset(name.strip() for name in os.environ.get(TRUST, "").split(",") if name.strip())
    denoiser_lock.lock_all()
    PromptServer.instance.add_on_prompt_handler(lambda data: _handle(data, looks, trusted, audit))
    logging.info("ConceptGuard: policy '%s' is in force for every prompt; audit in %s", _policy.name, path)
    return _policy.name


def _check_server(looks: bool) -> None:
    """The points that enforcement hangs on."""
    import comfy.cli_args
    import comfy.patcher_extension

    missing = [
        what
        for what, there in {
            "a handler of prompts": hasattr(PromptServer.instance, "add_on_prompt_handler"),
            "a wrapper around sampling": hasattr(comfy.patcher_extension.WrappersMP, "OUTER_SAMPLE"),
            "a queue that can be read": hasattr(PromptServer.instance.prompt_queue, "get_current_queue_volatile"),
        }.items()
        if not there
    ]
    if missing:
        raise ConceptGuardError(f"this ComfyUI lacks {', '.join(missing)}: use a newer one")
    preview = getattr(comfy.cli_args.args.preview_method, "value", "none")
    if looks and preview != "none":
        raise ConceptGuardError(
            f"the policy looks at images, and previews of what is being drawn (--preview-method {preview}) are sent "
            "before anything can look at them: start without previews"
        )


def _check_policy() -> None:
    """A guard whose terms beside the text encoder would not act must not seem to."""
    for guard in _policy.guards:
        if guard.artifact:
            keys = default_registry().load(guard.artifact).tensors()
            if any(key.startswith(("lora_te", "text_encoder")) for key in keys):
                raise ConceptGuardError(
                    f"guard '{guard.label}' changes the text encoder as well, which cannot be enforced for graphs of "
                    "others: use an artifact of the denoiser alone"
                )


def _handle(data: dict[str, Any], looks: bool, trusted: frozenset[str], audit: Audit) -> dict[str, Any]:
    """Called with what a client posted, before ComfyUI validates it. Must not raise: ComfyUI would go on without it."""
    prompt, client = str(data.get("prompt_id") or uuid.uuid4()), str(data.get("client_id", ""))
    try:
        data = {**data, "prompt_id": prompt}
        if looks and isinstance(data.get("extra_data"), dict):
            data["extra_data"] = {k: v for k, v in data["extra_data"].items() if k != "preview_method"}
        if "prompt" in data:
            data["prompt"] = graph.enforce(data["prompt"], _describe, looks, trusted)
            audit.accepted(prompt, client)
        return data
    except Exception as error:
        expected = isinstance(error, graph.Uncoverable)
        if not expected:
            logging.exception("ConceptGuard: a prompt could not be guarded")
        reason = str(error) if expected else f"this prompt could not be guarded ({type(error).__name__}: {error})"
        try:
            audit.refused(prompt, client, reason)
        except OSError:
            logging.exception("ConceptGuard: the audit file cannot be written")
        refused = {"1": {"class_type": graph.REFUSED, "inputs": {"reason": reason}}}
        return {"prompt": refused, "client_id": client, "prompt_id": prompt}


def _describe(kind: str) -> graph.Node | None:
    """What ComfyUI knows of a node class."""
    cls = nodes.NODE_CLASS_MAPPINGS.get(kind)
    if cls is None:
        return None
    groups = cls.INPUT_TYPES()
    takes = {
        name: _type(spec[0]) for group in ("required", "optional") for name, spec in (groups.get(group) or {}).items()
    }
    gives = tuple(map(_type, getattr(cls, "RETURN_TYPES", ()) or ()))
    place = str(getattr(cls, "RELATIVE_PYTHON_MODULE", None) or "nodes")
    return graph.Node(
        takes, gives, bool(getattr(cls, "OUTPUT_NODE", False)),
        core=not place.startswith("custom_nodes") or kind.startswith("ConceptGuard"),
        remote=bool(getattr(cls, "API_NODE", False)),
    )  # fmt: skip


def _type(declared: Any) -> str:
    """A plain string: ComfyUI's own kinds of it hold themselves equal to the type of anything."""
    return str.__str__(declared) if isinstance(declared, str) else "COMBO"


class ConceptGuardEnforcedModel(io.ComfyNode):
    """The operator's policy on a MODEL; put into graphs, not for use by hand."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=graph.GUARD, display_name="Operator's policy (model)", category="conceptguard/enforced",
            inputs=[io.Model.Input("model"), io.Clip.Input("clip")], outputs=[io.Model.Output()],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: Any, clip: Any) -> io.NodeOutput:
        guarded, session = guard_model(model, clip, _policy, cls.hidden.unique_id)
        denoiser_lock.sessions.add(session)
        return io.NodeOutput(guarded)


class ConceptGuardEnforcedImage(io.ComfyNode):
    """The operator's policy on an IMAGE; put into graphs, not for use by hand."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=graph.CHECK, display_name="Operator's policy (image)", category="conceptguard/enforced",
            inputs=[io.Image.Input("image")], outputs=[io.Image.Output()], hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, image: Tensor) -> io.NodeOutput:
        return io.NodeOutput(check(image, _policy, KEEP, cls.hidden.unique_id)[0])


class ConceptGuardRefused(io.ComfyNode):
    """A prompt that cannot be guarded is replaced by this node, whose validation says why."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=graph.REFUSED, display_name="Refused by the operator's policy", category="conceptguard/enforced",
            inputs=[io.String.Input("reason")], is_output_node=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, reason: str) -> bool | str:
        return reason

    @classmethod
    def execute(cls, reason: str) -> io.NodeOutput:
        raise ConceptGuardError(reason)


NODES: list[type[io.ComfyNode]] = [ConceptGuardEnforcedModel, ConceptGuardEnforcedImage, ConceptGuardRefused]
