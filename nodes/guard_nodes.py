"""Guard Model and Guard Encoder, and Explain Prompt, which tells what they would do."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from conceptguard import attach
from conceptguard.hosts.comfyui.clip import GuardedCLIP, unguarded_clip
from conceptguard.hosts.comfyui.host import KEY, unguarded
from conceptguard.policy import Policy, together
from conceptguard.policy_file import acting
from conceptguard.sessions.explain import explain
from conceptguard.sessions.session import Session

from . import chart, events
from .policy_node import POLICY

AT_SAMPLING = ("cross_attention", "condition", "predict_noise", "encode_prompt")


def guard_model(model: Any, clip: Any, policy: Policy, node: str) -> tuple[Any, Session]:
    """A MODEL under a policy, and under that of an earlier Guard Model, if there was one; and its session."""
    earlier = model.attachments.get(KEY)
    if earlier is not None:
        policy = together(earlier.policy, policy)
    session = attach((unguarded(model), unguarded_clip(clip)), acting(policy, *AT_SAMPLING))
    session.host.candidates, session.host.on_step = events.texts, events.teller(node)
    return session.host.guarded(), session


class ConceptGuardModel(io.ComfyNode):
    """Guard Model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptGuardModel", display_name="Guard Model", category="conceptguard",
            description="The MODEL under a policy. Guards open by the conditioning that reaches it while it samples, "
            "however that was wired. A prompt that no guard is about gives the same image as without, bit for bit.",
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip", tooltip="The CLIP that the prompts are encoded with, after its LoRAs: concepts "
                              "are read with it."),
                POLICY.Input("policy"),
            ],
            outputs=[io.Model.Output(display_name="model")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: Any, clip: Any, policy: Policy) -> io.NodeOutput:
        guarded, _ = guard_model(model, clip, policy, cls.hidden.unique_id)
        return io.NodeOutput(guarded)


class ConceptGuardEncoder(io.ComfyNode):
    """Guard Encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptGuardEncoder", display_name="Guard Encoder", category="conceptguard",
            description="The CLIP under a policy, for the prompt that an image is drawn towards: guards that ask or "
            "rewrite do so where it is encoded, LoRAs change the text encoder too, and Guard Model knows every text.",
            inputs=[
                io.Clip.Input("clip"),
                POLICY.Input("policy"),
                io.Model.Input("model", optional=True, tooltip="The MODEL of this CLIP: only guards with terms beside "
                               "the text encoder need it."),
            ],
            outputs=[io.Clip.Output(display_name="clip")],
        )  # fmt: skip

    @classmethod
    def execute(cls, clip: Any, policy: Policy, model: Any = None) -> io.NodeOutput:
        hooks = ("encode_prompt",) if model is None else AT_SAMPLING
        clip = unguarded_clip(clip)
        session = attach((None if model is None else unguarded(model), clip), acting(policy, *hooks))
        return io.NodeOutput(GuardedCLIP(clip, session))


class ConceptGuardExplain(io.ComfyNode):
    """Explain Prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptGuardExplain", display_name="Explain Prompt", category="conceptguard",
            description="Which guards a prompt would open, how far, and because of which words. Nothing is sampled.",
            inputs=[
                io.Model.Input("model"), io.Clip.Input("clip"), POLICY.Input("policy"),
                io.String.Input("text", multiline=True, default=""),
            ],
            outputs=[io.String.Output(display_name="report"), io.Image.Output(display_name="chart")],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, model: Any, clip: Any, policy: Policy, text: str) -> io.NodeOutput:
        with attach((unguarded(model), unguarded_clip(clip)), acting(policy, *AT_SAMPLING)) as session:
            openings = explain(session, text)
        lines = [f"{text!r}:"]
        for opening in openings:
            because = f" because of {', '.join(opening.words)}" if opening.words else ""
            if opening.gate:
                lines.append(f"  {opening.guard}: opens {opening.gate:.2f}{because}")
        if len(lines) == 1:
            lines.append(f"  none of {len(openings)} guards opens")
        report = "\n".join(lines)
        bars = [(o.guard, o.gate, ", ".join(o.words)) for o in openings]
        return io.NodeOutput(report, chart.bars(bars, text or "empty prompt"), ui=ui.PreviewText(report))
