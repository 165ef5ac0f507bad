"""Check Image and Receipt: what came out, and what guards did to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from conceptguard import attach
from conceptguard.errors import PolicyError, Refused
from conceptguard.hosts.comfyui.host import KEY
from conceptguard.hosts.images import Pictures
from conceptguard.policy import Policy
from conceptguard.policy_file import acting
from conceptguard.receipt import Receipt

from . import chart, events
from .policy_node import ACTIONS, KEEP, POLICY

HOLD = "hold back"


@dataclass(frozen=True)
class Look:
    """What a policy found in images, and what it made of them.

    pixels: [n, h, w, 3] after the action, None where they are held; flagged: which; score: the highest; refusal: what
    ``reject`` raises
    """

    pixels: Tensor | None
    flagged: list[int]
    score: float
    report: str
    receipt: Receipt
    refusal: Refused | None


def look(image: Tensor, policy: Policy, action: str, node: str) -> Look:
    """A policy's look at images [n, h, w, 3], which the page and the prompt's receipts are told of.

    action: one of ACTIONS in place of the policy's, KEEP, or HOLD. Raises PolicyError where no guard looks at images.
    """
    looking = acting(policy, "check_image")
    if not looking.guards:
        raise PolicyError(f"no guard of policy '{policy.name}' looks at images: add one, such as nsfw or probe")
    wanted = looking.on_violation if action == KEEP else action
    # What is to be drawn again from another seed cannot be here: it is held as ``retry`` ends.
    effective = {HOLD: "flag", "retry": "reject"}.get(wanted, wanted)
    with attach(Pictures(), looking.model_copy(update={"on_violation": effective})) as session:
        pixels, refusal = image.movedim(-1, 1), None
        try:
            pixels = session.run(lambda: session.check_image(pixels, [None] * len(pixels)))
        except Refused as error:
            refusal = error
        receipt = session.receipt
    flagged = sorted({v.image for v in receipt.verdicts if v.flagged})
    score = max((v.score for v in receipt.verdicts), default=0.0)
    report = _report(receipt, len(image), wanted)
    held = bool(flagged) and (refusal is not None or wanted == HOLD)
    events.send("conceptguard.report", {
        "node": node, "prompt_id": events.prompt_id(), "action": wanted, "flagged": flagged, "held": held,
        "message": report, "verdicts": [
            {"image": v.image, "guard": v.guard, "label": v.label, "score": round(v.score, 4), "flagged": v.flagged}
            for v in receipt.verdicts
        ],
    })  # fmt: skip
    events.keep(receipt)
    return Look(None if held else pixels.movedim(1, -1), flagged, score, report, receipt, refusal)


def _report(receipt: Receipt, count: int, action: str) -> str:
    """One line for each verdict that flags, or one that says that nothing was found."""
    lines = [
        f"image {v.image + 1} of {count} shows {v.label} ({v.guard}, score {v.score:.2f}): {action}"
        for v in receipt.verdicts
        if v.flagged
    ]
    return "\n".join(lines) or f"nothing found in {count} image{'s' if count > 1 else ''}"


class ConceptGuardCheckImage(io.ComfyNode):
    """Check Image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptGuardCheckImage", display_name="Check Image", category="conceptguard",
            description="A last look at images by the guards of a policy that look: flag, blur or blacken what they "
            "find, reject it with an error, or hold it back, so that only what hangs on this image does not run.",
            inputs=[
                io.Image.Input("image"),
                POLICY.Input("policy"),
                io.Combo.Input("action", options=[KEEP, *ACTIONS, HOLD], default=KEEP),
            ],
            outputs=[
                io.Image.Output(display_name="image"), io.Boolean.Output(display_name="flagged"),
                io.Float.Output(display_name="score"), io.String.Output(display_name="report"),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, image: Tensor, policy: Policy, action: str) -> io.NodeOutput:
        seen = look(image, policy, action, cls.hidden.unique_id)
        if seen.refusal is not None:
            raise seen.refusal
        pixels = seen.pixels
        if pixels is None:
            from comfy_execution.graph_utils import ExecutionBlocker

            pixels = ExecutionBlocker(None)
        return io.NodeOutput(pixels, bool(seen.flagged), seen.score, seen.report, ui=ui.PreviewText(seen.report))


class ConceptGuardReceipt(io.ComfyNode):
    """Receipt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptGuardReceipt", display_name="Receipt", category="conceptguard",
            description="What every guard did: how far it was open, on which prompt, in how many steps.",
            inputs=[
                io.Model.Input("model", tooltip="From Guard Model."),
                io.AnyType.Input("after", tooltip="What was sampled with it: the receipt waits for this."),
            ],
            outputs=[io.String.Output(display_name="receipt"), io.Image.Output(display_name="chart")],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, model: Any, after: Any) -> io.NodeOutput:
        session = model.attachments.get(KEY)
        if session is None:
            raise PolicyError("this MODEL is not guarded, so there is no receipt: wire the one from Guard Model")
        mine = [r for r in events.receipts() if any(r is own for own in session.host.receipts)]
        shown = mine or list(session.host.receipts)[-1:]  # nothing new was sampled: the last one still tells
        text = "\n".join(map(str, shown)) or "nothing was sampled yet"
        last = shown[-1] if shown else session.receipt
        rows = [(a.guard, max(a.gates, default=0.0), f"{len(a.steps)} steps" if a.steps else "") for a in last.acts]
        picture = chart.bars(rows, f"{last.policy}: {last.steps} steps, {last.seconds:.1f} s")
        preview = {**ui.PreviewImage(picture, cls=cls).as_dict(), **ui.PreviewText(text).as_dict()}
        return io.NodeOutput(text, picture, ui={**preview, "conceptguard_receipt": [events.plain(last)]})
