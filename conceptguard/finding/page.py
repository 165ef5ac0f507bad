"""One page of what was found, at most 32 concepts: one file, readable by whoever has a browser and not us.

A concept that is none can be struck on it, and one that is called wrongly be called otherwise; the page then gives the
concept file that ``conceptguard make --concepts`` reads.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from ..errors import ConceptGuardError
from ..files.atomic import write_bytes
from ..version import __version__
from .checks import MOST_SHOWN, Checks
from .files import evoked

if TYPE_CHECKING:
    from ..finder import Found, FoundConcept, PictureSet

EXAMPLES, SIDE = 6, 128

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d1f24; max-width: 1100px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin: 0 } .soft { color: #6a7079 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { text-align: left; padding: .2rem .8rem .2rem 0 }
section { border-top: 1px solid #dfe2e7; padding: 1rem 0 } section.struck { opacity: .35 }
.pictures { display: flex; gap: .5rem; flex-wrap: wrap; margin: .5rem 0 } figure { margin: 0; position: relative }
figure img { border-radius: 6px; display: block } figcaption { font-size: .75rem; color: #6a7079; max-width: 128px }
.bar { background: #3f51b5; height: 6px; border-radius: 3px } code { background: #eef0f4; padding: .1rem .3rem }
.act { float: right } input[type=text] { font: inherit; width: 14rem }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #e6e8eb } section { border-color: #33373d }
  code { background: #24272d } }
"""

# Struck concepts and other names are in the page alone until somebody saves the file that it writes.
_SCRIPT = """
const listed = () => [...document.querySelectorAll('section')].filter(s => !s.querySelector('.strike').checked)
  .map(s => ({name: s.querySelector('.name').value.trim(), prompts: JSON.parse(s.dataset.prompts),
    renamed: s.querySelector('.name').value !== s.querySelector('.name').defaultValue}))
  .filter(c => c.prompts.length || c.renamed)  // a number evokes nothing, until somebody says what it is
const quoted = text => JSON.stringify(text)
const written = () => listed().map(c => {
  const prompts = c.prompts.length ? c.prompts : [c.name]
  return `- {name: ${quoted(c.name)}, prompts: [${prompts.map(quoted).join(', ')}]}\\n` }).join('')
const show = () => {
  document.querySelectorAll('section').forEach(s => s.classList.toggle('struck', s.querySelector('.strike').checked))
  document.querySelector('#file').textContent = written()
  document.querySelector('#save').href = 'data:text/yaml;charset=utf-8,' + encodeURIComponent(written()) }
document.addEventListener('input', show); show()
"""


def write_page(
    file: Path, found: Found, pictures: PictureSet, checks: Sequence[Checks], made: Mapping[str, Any]
) -> None:
    """Write what was found. made: facts for the head. Raises ConceptGuardError."""
    try:
        write_bytes(file, page(found, pictures, checks, made).encode())
    except OSError as error:
        raise ConceptGuardError(f"{file}: cannot be written ({error.strerror}): give another --page") from None


def page(found: Found, pictures: PictureSet, checks: Sequence[Checks], made: Mapping[str, Any]) -> str:
    """The page as text."""
    facts = "".join(f"<tr><th>{_text(key)}</th><td>{_text(value)}</td></tr>" for key, value in made.items())
    shown = found.concepts[:MOST_SHOWN]
    most = max((one.importance for one in shown), default=1.0) or 1.0
    title = _text(f"{len(shown)} concepts in {len(pictures)} pictures")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body><h1>{title}</h1>'
        f"<table>{facts}</table>\n<p>{_text(found.told)}</p>\n{_checked(checks) if checks else ''}\n"
        + "\n".join(_section(i, one, pictures, most) for i, one in enumerate(shown))
        + "\n<h2>The concept file</h2><p>Strike what is no concept, call others otherwise, then "
        '<a id="save" download="concepts.yaml" href="">save concepts.yaml</a>. '
        "<code>conceptguard make uce --concepts concepts.yaml --out my-registry</code> erases what it names; a "
        "policy's last look takes probes, which <code>conceptguard find … --out FOLDER --probe NAME</code> writes.</p>"
        f'<pre id="file"></pre>\n<p class="soft">Made by conceptguard {__version__}.</p>'
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def _checked(checks: Sequence[Checks]) -> str:
    """The three checks as a table, a random finder's below."""
    head = "<tr><th>finder</th><th>other half of the pictures</th><th>learnability</th><th>… of the classes</th>" \
           "<th>shown</th></tr>"  # fmt: skip
    rows = "".join(
        f"<tr><td>{_text(one.finder)}</td><td>{_number(one.probe_set)}</td><td>{_number(one.learnability)}</td>"
        f"<td>{_number(one.classes)}</td><td>{one.shown} of at most {MOST_SHOWN}</td></tr>"
        for one in checks
    )
    return (
        f'<h2>Three checks</h2><table id="checks">{head}{rows}</table><p class="soft">How like each other the concepts '
        "are that each half of the pictures gives (1 is the same); how well a probe learns to see them (1 is always "
        "right), beside the classes that they explain: a concept that is harder to see than its class explains "
        "nothing; and how many are shown. A finder that is no better than the random one has found nothing.</p>"
    )


def _section(i: int, one: FoundConcept, pictures: PictureSet, most: float) -> str:
    words = ", ".join(f"{word} {cosine:.2f}" for word, cosine in one.words) or "no word stands out"
    about = f", speaks for <b>{_text(one.about)}</b>" if one.about else ""
    part = f", part of <b>{_text(one.part_of)}</b>" if one.part_of else ""
    best = one.scores.topk(min(EXAMPLES, len(one.scores))).indices.tolist()
    figures = "".join(_figure(pictures, row, one.maps[row]) for row in best)
    prompts = html.escape(json.dumps(evoked(one)))
    return (
        f'<section data-prompts="{prompts}"><span class="act"><label><input type="checkbox" class="strike"> strike'
        f'</label></span><h2>{i + 1}. <input type="text" class="name" value="{_text(one.name)}"></h2>'
        f'<div class="bar" style="width:{100 * one.importance / most:.1f}%"></div>'
        f'importance {one.importance:.3f}{about}{part}<br><span class="soft">nearest words: {_text(words)}</span>'
        f'<div class="pictures">{figures}</div></section>'
    )


def _figure(pictures: PictureSet, row: int, where: Tensor) -> str:
    """A picture, bright where the concept is."""
    pixels = F.interpolate(pictures.pixels[row, None].float() / 255, (SIDE, SIDE), mode="bilinear", antialias=True)
    light = F.interpolate(where[None, None], (SIDE, SIDE), mode="bilinear")
    light = light / light.max().clamp(min=1e-9)
    seen = pixels * (0.3 + 0.7 * light) + 0.12 * (1 - light)
    name = pictures.names[row]
    picture = f'<img src="{_png(seen[0])}" alt="" width="{SIDE}" height="{SIDE}">'
    return f"<figure>{picture}<figcaption>{_text(name)}</figcaption></figure>"


def _png(pixels: Tensor) -> str:
    from PIL import Image

    data = io.BytesIO()
    flat = (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    Image.fromarray(flat.cpu().numpy()).save(data, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _text(text: Any) -> str:
    return html.escape(str(text))
