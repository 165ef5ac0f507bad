"""What a denoiser call asks for beyond its prompt: pictures and things at places, which no guard reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...errors import Refused

if TYPE_CHECKING:
    from ...protocols import DrawingSession

# (argument, key in it)
_UNREAD = {
    "IP-Adapter": (("added_cond_kwargs", "image_embeds"), ("joint_attention_kwargs", "ip_adapter_image_embeds")),
    "GLIGEN": (("cross_attention_kwargs", "gligen"),),
    "picture": (("encoder_hidden_states_image", None),),
}  # fmt: skip


def strangers(kwargs: dict[str, Any]) -> list[str]:
    """What a denoiser call is asked for that is no text, and that no guard reads."""
    found = []
    for name, places in _UNREAD.items():
        for argument, key in places:
            value = kwargs.get(argument)
            if (value if key is None else (value or {}).get(key)) is not None:
                found.append(name)
    return found


def told_of(session: DrawingSession, strange: Sequence[str]) -> None:
    """A note in the receipt of guards that open by prompts; Refused where the policy refuses what is unread."""
    for name in strange:
        if session.policy.unread == "refuse":
            raise Refused(
                f"this call asks by more than its prompt ({name}), which policy '{session.policy.name}' has not read: "
                "leave it out"
            )
        for method in session.methods_with_terms:
            note(method.act, f"this call also asks by more than its prompt ({name}), which no guard has read")


def note(act: Any, text: str) -> None:
    """A note in a guard's entry of the receipt, once."""
    if text not in act.notes:
        act.notes.append(text)
