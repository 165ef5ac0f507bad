"""Policy: which guards, chosen from lists: a file's, one more, or both. Nodes of this kind can be chained."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from conceptguard.errors import PolicyError
from conceptguard.policy import Policy, together
from conceptguard.policy_file import load_policy

from . import choices

POLICY = io.Custom("CONCEPTGUARD_POLICY")
KEEP = "as the policies say"
ACTIONS = ["flag", "blur", "black", "reject"]


class ConceptGuardPolicy(io.ComfyNode):
    """A conceptguard Policy."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptGuardPolicy", display_name="Policy", category="conceptguard",
            description="What must not be generated. Choose a policy by its file, or a guard from the registry, or a "
            "method and a concept in words; chain several of these nodes for several guards.",
            inputs=[
                io.Combo.Input("file", options=[choices.NONE, *choices.policies()], default=choices.NONE,
                               tooltip="A shipped policy, or a file in ComfyUI's models/conceptguard."),
                io.Combo.Input("artifact", options=[choices.NONE, *choices.references()], default=choices.NONE,
                               tooltip="A concept that somebody has erased for a base model."),
                io.Combo.Input("method", options=[choices.OF_ARTIFACT, *choices.methods_without_artifact()],
                               default=choices.OF_ARTIFACT,
                               tooltip="How an artifact is used is its own affair; others need a concept in words."),
                io.String.Input("concept", default="",
                                tooltip="For a method without an artifact: phrases with commas between them, the first "
                                "of which names the concept. E.g. pistol, a man with a gun"),
                io.Float.Input("strength", default=1.0, min=0.0, max=4.0, step=0.05,
                               tooltip="What a fully open guard is worth."),
                io.Combo.Input("gate", options=["prompt", "always"], default="prompt",
                               tooltip="Opened as far as a prompt is about the concept, or always."),
                io.Combo.Input("on_violation", options=[KEEP, *ACTIONS], default=KEEP,
                               tooltip="What Check Image does with an image that a guard flags."),
                POLICY.Input("policy", optional=True, tooltip="Guards to put these after."),
            ],
            outputs=[POLICY.Output(display_name="policy"), io.String.Output(display_name="guards")],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, file: str = choices.NONE, **_: Any) -> Any:
        """A file that was edited is read again."""
        path = choices.policies().get(file)
        return (file, path.stat().st_mtime_ns if path else None)

    @classmethod
    def execute(
        cls,
        file: str,
        artifact: str,
        method: str,
        concept: str,
        strength: float,
        gate: str,
        on_violation: str,
        policy: Policy | None = None,
    ) -> io.NodeOutput:
        parts = [policy] if policy is not None else []
        if file != choices.NONE:
            parts.append(choices.policy(file))
        guard = _guard(artifact, method, concept)
        if guard:
            parts.append(load_policy({"name": _name(guard), "guards": [{**guard, "strength": strength, "gate": gate}]}))
        if not parts:
            raise PolicyError("this Policy names nothing: choose a file, an artifact, or a method and a concept")
        if guard and file == choices.NONE and policy is not None:
            parts[-1] = parts[-1].model_copy(update={"on_violation": policy.on_violation})
        whole = together(*parts) if len(parts) > 1 else parts[0]
        if on_violation != KEEP:
            whole = load_policy({**whole.model_dump(), "on_violation": on_violation})
        return io.NodeOutput(whole, "\n".join(g.label for g in whole.guards))


def _guard(artifact: str, method: str, concept: str) -> dict[str, Any] | None:
    """The one guard that the lists name, if they name one."""
    if artifact != choices.NONE:
        if method != choices.OF_ARTIFACT or concept.strip():
            raise PolicyError(
                f"'{artifact}' brings its own method and concept: clear those, or set artifact to '{choices.NONE}' and "
                "use another Policy node for the other guard"
            )
        return {"method": choices.entry(artifact).method, "artifact": artifact}
    if method == choices.OF_ARTIFACT:
        if concept.strip():
            raise PolicyError(f"a concept in words needs a method: {', '.join(choices.methods_without_artifact())}")
        return None
    phrases = [phrase.strip() for phrase in concept.split(",") if phrase.strip()]
    return {"method": method, **({"concept": {"name": phrases[0], "prompts": phrases}} if phrases else {})}


def _name(guard: dict[str, Any]) -> str:
    named = guard.get("artifact") or (guard.get("concept") or {}).get("name")
    return str(named or guard["method"]).rsplit("/", 1)[-1]
