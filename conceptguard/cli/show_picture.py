"""``conceptguard show picture.png``: under which policy a picture was made, as far as it says so itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import printable

if TYPE_CHECKING:
    from ..records.pictures import Told

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_STATES = {
    None: "no content credentials: anybody can have written this",
    "unread": 'content credentials, unread: pip install "conceptguard[credentials]"',
    "Invalid": "content credentials that do NOT hold: the picture or they were changed since",
    "Valid": "content credentials that hold, by {signer}, for whom nobody here vouches",
    "Trusted": "content credentials that hold, by {signer}",
}


def is_picture(ref: str) -> bool:
    """Whether an argument of ``show`` is the name of a picture file."""
    return ref.lower().endswith(SUFFIXES)


def row(file: str) -> dict[str, Any]:
    """What a picture says, flat. ``same``: whether its metadata says what its credentials do, where it has both."""
    from ..records.pictures import read_picture

    told = read_picture(Path(file))
    said = _believed(told) or {}
    both = told.text is not None and told.credentials is not None
    return {
        "file": file,
        "policy": said.get("policy"),
        "acted": [act.get("guard") for act in _parts(said, "acted")],
        "action": said.get("action"),
        "credentials": told.state,
        "signer": told.signer,
        "same": told.text == told.credentials if both else None,
        "ingredients": list(told.ingredients),
        "told": said or None,
    }


def _believed(told: Told) -> dict[str, Any] | None:
    return told.credentials if told.credentials is not None and told.state in ("Valid", "Trusted") else told.text


def _parts(said: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = said.get(key)
    return [part for part in found if isinstance(part, dict)] if isinstance(found, list) else []


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A row for people. What strangers wrote steers no terminal."""
    said = found["told"]
    if said is None:
        yield f"{found['file']} says nothing of a policy"
    else:
        where = f"{said.get('host')} ({said.get('device')}, {said.get('dtype')})"
        yield printable(f"{found['file']}: policy {said.get('policy')} on {where}, {said.get('steps')} steps")
        for act in _parts(said, "acted"):
            opened = f": open {act['open']:.2f}, {act.get('steps')} steps" if _is_number(act.get("open")) else ""
            yield printable(f"  {act.get('guard')}{opened}")
        for v in _parts(said, "verdicts"):
            score = f"{v['score']:.2f}" if _is_number(v.get("score")) else ""
            then = f" -> {said.get('action')}" if v.get("flagged") else ""
            yield printable(f"  {v.get('guard')}: {v.get('label')} {score}{then}")
        if not _parts(said, "acted"):
            yield printable(f"  none of {said.get('guards')} guards acted")
    if said is not None or found["credentials"]:
        state = _STATES.get(found["credentials"], f"content credentials: {found['credentials']}")
        yield printable(f"  {state.format(signer=found['signer'])}")
    if found["same"] is False:
        yield "  its metadata says something else: believe the credentials"
    if found["ingredients"]:
        yield printable(f"  made from {', '.join(found['ingredients'])}, whose credentials are kept")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))
