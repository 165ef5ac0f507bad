"""A page that shows what was generated under a policy: one file, readable by whoever has a browser and not us."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConceptGuardError
from ..files.atomic import write_bytes
from ..version import __version__

if TYPE_CHECKING:
    from ..policy import Policy

SIDE = 256  # pixels of a picture's longer side on the page; the files beside it are whole

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d1f24; max-width: 1100px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } .soft { color: #6a7079 } table { border-collapse: collapse; margin: 1rem 0 }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top }
section { border-top: 1px solid #dfe2e7; padding: 1rem 0; display: flex; gap: 1rem; flex-wrap: wrap }
figure { margin: 0 } figure img { border-radius: 8px; display: block; max-width: 100% }
figcaption { font-size: .85rem; color: #6a7079 } .told { flex: 1 1 18rem } .refused { color: #a3312a }
.none { width: 256px; height: 256px; border: 1px dashed #a3312a; border-radius: 8px; display: grid;
  place-items: center; color: #a3312a }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #e6e8eb } section { border-color: #33373d } }
"""


def write_page(
    file: Path, rows: Sequence[Mapping[str, Any]], model: str, policy: Policy | None, device: str,
    made: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write the page of ``conceptguard generate``'s rows, pictures inside it. Raises ConceptGuardError."""
    try:
        write_bytes(file, page(rows, model, policy, device, made).encode())
    except OSError as error:
        raise ConceptGuardError(f"{file}: cannot be written ({error.strerror}): give another --html") from None


def page(
    rows: Sequence[Mapping[str, Any]], model: str, policy: Policy | None, device: str, made: Mapping[str, Any]
) -> str:
    """The page as text."""
    name = policy.name if policy else "no policy"
    guards = ", ".join(guard.label for guard in policy.guards) if policy else "none: nothing was guarded"
    acted = sum(bool(row.get("guards")) for row in rows)
    refused = sum(bool(row.get("refused")) for row in rows)
    flagged = sum(bool(row.get("found")) for row in rows)
    facts = {
        "Model": model, "Policy": name, "Guards": guards, "Device": device,
        "Pictures": f"{len(rows)}: guards were open on {acted}, {flagged} flagged, {refused} refused",
        **{key.capitalize(): str(value) for key, value in made.items()},
    }  # fmt: skip
    head = "".join(f"<tr><th>{_text(key)}</th><td>{_text(value)}</td></tr>" for key, value in facts.items())
    title = _text(f"{model} under {name}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width"><style>'
        + _STYLE
        + f"</style></head>\n<body><h1>{title}</h1>"
        f"<table>{head}</table>\n"
        + "\n".join(map(_section, rows))
        + f'\n<p class="soft">A gate of 0 leaves a picture as it is without a guard, to the last bit; 1 is fully open. '
        f"Made by conceptguard {__version__}.</p></body></html>\n"
    )


def _section(row: Mapping[str, Any]) -> str:
    pictures = [_figure(row["without"], "without the policy")] if row.get("without") else []
    if row.get("file"):
        pictures.append(_figure(row["file"], "under the policy" if row.get("without") else Path(row["file"]).name))
    else:
        pictures.append('<figure><div class="none">no picture</div></figure>')
    told = [f"<strong>{_text(row['prompt'])}</strong>", f"seed {row['seed']}"]
    if row.get("negative_prompt"):
        told.append(f"negative prompt: {_text(row['negative_prompt'])}")
    told.append(f"open: {_text(row['guards'])}" if row.get("guards") else "no gate was open")
    if row.get("identical"):
        told.append("the same picture as without the policy, bit for bit")
    if row.get("found"):
        told.append(f"found in the picture: {_text(row['found'])}")
    if row.get("refused"):
        told[3:] = [f'<span class="refused">refused: {_text(row["refused"])}</span>']
    return f'<section>{"".join(pictures)}<div class="told">{"<br>".join(told)}</div></section>'


def _figure(file: str, caption: str) -> str:
    from ..files.pictures import open_picture

    small = open_picture(file)
    small.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    small.save(data, "PNG", optimize=True)
    inside = base64.b64encode(data.getvalue()).decode()
    picture = f'<img src="data:image/png;base64,{inside}" alt="" width="{small.width}" height="{small.height}">'
    return f"<figure>{picture}<figcaption>{_text(caption)}</figcaption></figure>"


def _text(text: Any) -> str:
    return html.escape(str(text))
