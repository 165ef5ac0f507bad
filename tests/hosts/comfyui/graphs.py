"""Graphs as a page posts them."""

from __future__ import annotations

from typing import Any

SMOKING, APPLE = "a man smoking a cigarette, noto style", "a red apple, noto style"
KEEP, NONE, OWN = "as the policies say", "none", "the artifact's own"


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def policy(file: str = NONE, artifact: str = NONE, method: str = OWN, **more: Any) -> dict[str, Any]:
    settings = {"concept": "", "strength": 1.0, "gate": "prompt", "on_violation": KEEP, **more}
    return node("ConceptGuardPolicy", file=file, artifact=artifact, method=method, **settings)


def drawing(
    text: str = SMOKING, model: Any = ("demo", 0), *, steps: int = 4, seed: int = 3, **more: Any
) -> dict[str, Any]:
    """The embedded model draws; ``image`` is saved. model: a link."""
    return {
        "demo": node("ConceptGuardDemoModel", name="emoji-sd"),
        "towards": node("CLIPTextEncode", text=text, clip=["demo", 1]),
        "away": node("CLIPTextEncode", text="", clip=["demo", 1]),
        "empty": node("EmptyLatentImage", width=128, height=128, batch_size=more.pop("batch", 1)),
        "latent": node(
            "KSampler", model=list(model), positive=["towards", 0], negative=["away", 0], latent_image=["empty", 0],
            seed=seed, steps=steps, cfg=more.pop("cfg", 3.5), sampler_name="euler", scheduler="normal", denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["latent", 0], vae=["demo", 2]),
        "image": node("SaveImage", images=["decode", 0], filename_prefix="test"),
        **more,
    }  # fmt: skip


def guarded(text: str = SMOKING, rules: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """The same under a policy, with a receipt."""
    return drawing(
        text, ("guard", 0), policy=rules or policy("school"),
        guard=node("ConceptGuardModel", model=["demo", 0], clip=["demo", 1], policy=["policy", 0]),
        receipt=node("ConceptGuardReceipt", model=["guard", 0], after=["latent", 0]), **more,
    )  # fmt: skip


def looking(color: int, rules: dict[str, Any], action: str = KEEP, batch: int = 1) -> dict[str, Any]:
    """A picture of one colour, checked and saved."""
    return {
        "plain": node("EmptyImage", width=64, height=64, batch_size=batch, color=color),
        "policy": rules,
        "check": node("ConceptGuardCheckImage", image=["plain", 0], policy=["policy", 0], action=action),
        "image": node("SaveImage", images=["check", 0], filename_prefix="test"),
        "flagged": node("PreviewAny", source=["check", 1]),
    }


RED, GREEN = 0xE00000, 0x00C000
