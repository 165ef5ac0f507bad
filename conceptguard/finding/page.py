"""One page of what was found, at most 32 concepts: one file, readable by whoever has a browser and not us.

A concept that is none can be struck on it, one that is called wrongly be called otherwise, a box say where it is or is
not, and a rule that it must not tell a class. The page then gives the concept file that ``conceptguard make`` reads and
the corrections that ``conceptguard find --corrections`` reads; served by ``--correct`` it does them at once.
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
from .strategies import drawn

if TYPE_CHECKING:
    from ..finder import Found, FoundConcept, PictureSet, Strategies
    from .corrections import Corrections

EXAMPLES, SIDE = 6, 128

_HERE = Path(__file__).parent


def write_page(file: Path, page: str) -> None:
    """Raises ConceptGuardError."""
    try:
        write_bytes(file, page.encode())
    except OSError as error:
        raise ConceptGuardError(f"{file}: cannot be written ({error.strerror}): give another --page") from None


def page(
    found: Found, pictures: PictureSet, checks: Sequence[Checks], made: Mapping[str, Any],
    said: Corrections | None = None, rules: bool = False, live: bool = False,
) -> str:  # fmt: skip
    """The page as text. made: facts for the head; said: corrections so far; rules: whether the finder can keep any;
    live: whether the page is served, by what corrects at once"""
    style, script = ((_HERE / name).read_text("utf-8") for name in ("page.css", "page.js"))
    facts = "".join(f"<tr><th>{_text(key)}</th><td>{_text(value)}</td></tr>" for key, value in made.items())
    shown = found.concepts[:MOST_SHOWN]
    most = max((one.importance for one in shown), default=1.0) or 1.0
    title = _text(f"{len(shown)} concepts in {len(pictures)} pictures")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{style}</style></head>\n'
        f'<body data-said="{_text(said.model_dump_json() if said else "{}")}"><h1>{title}</h1>'
        f"<table>{facts}</table>\n<p>{_text(found.told)}</p>\n{_checked(checks) if checks else ''}\n"
        f"{_decided(found.strategies) if found.strategies else ''}\n"
        + "\n".join(_section(i, one, pictures, most) for i, one in enumerate(shown))
        + f"\n{_correcting(rules, live)}\n"
        '<h2>The concept file</h2><p><a id="save" download="concepts.yaml" href="">Save concepts.yaml</a>: '
        "<code>conceptguard make uce --concepts concepts.yaml --out my-registry</code> erases what it names; a "
        "policy's last look takes probes, which <code>conceptguard find … --out FOLDER --probe NAME</code> writes.</p>"
        f'<pre id="file"></pre>\n<p class="soft">Made by conceptguard {__version__}.</p>'
        f"<script>{script}</script></body></html>\n"
    )


def _correcting(rules: bool, live: bool) -> str:
    """What becomes of corrections, and where rules are written."""
    asked = (
        "<p><label>Rules, one a line: <code>CLASS: CONCEPT</code> where the concept must not tell the class<br>"
        '<textarea id="rules" rows="3"></textarea></label></p>'
        if rules
        else ""
    )
    done = (
        '<p><button id="apply">Correct</button> writes the files anew, and teaches the probes again.</p>'
        '<p id="told" role="status"></p>'
        if live
        else "<p><code>conceptguard find … --out FOLDER --corrections corrections.yaml</code> does them, and teaches "
        "probes by them; with <code>--correct</code> this page does it at once.</p>"
    )
    return (
        "<h2>Corrections</h2><p>Strike what is no concept; call others otherwise; draw boxes on pictures around what "
        "is the concept, or tick “boxes are not it” first. A click takes a box away. "
        f'<a id="corrections" download="corrections.yaml" href="">Save corrections.yaml</a>.</p>{asked}{done}'
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


def _decided(graph: Strategies) -> str:
    """The strategic cluster graph, and what it says."""
    return (
        f'<h2>What decides</h2>{drawn(graph)}<p class="soft">Every dot is a picture, near to those that the same '
        "concepts decide. A circle is a concept, as large as the share of the pictures that it decides more than any "
        "other; green where these are told apart rightly by what other pictures taught, red where wrongly: there look "
        "first.</p>"
    )


def _section(i: int, one: FoundConcept, pictures: PictureSet, most: float) -> str:
    words = ", ".join(f"{word} {cosine:.2f}" for word, cosine in one.words) or "no word stands out"
    about = f", speaks for <b>{_text(one.about)}</b>" if one.about else ""
    part = f", part of <b>{_text(one.part_of)}</b>" if one.part_of else ""
    best = one.scores.topk(min(EXAMPLES, len(one.scores))).indices.tolist()
    figures = "".join(_figure(pictures, row, one.maps[row]) for row in best)
    prompts = html.escape(json.dumps(evoked(one)))
    return (
        f'<section data-prompts="{prompts}" data-name="{_text(one.name)}"><span class="act">'
        '<label><input type="checkbox" class="no"> boxes are not it</label>'
        '<label><input type="checkbox" class="strike"> strike</label></span>'
        f'<h2>{i + 1}. <input type="text" class="name" value="{_text(one.name)}"></h2>'
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
    return (
        f'<figure><div class="seen" data-picture="{_text(name)}">{picture}</div>'
        f"<figcaption>{_text(name)}</figcaption></figure>"
    )


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
