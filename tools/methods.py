"""Pages of methods: what a class, its settings and its shipped artifacts say of themselves, as Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from conceptguard import plugins
from conceptguard.cli import fields
from conceptguard.cli.plugins import acts_on
from conceptguard.hookspecs import GENERATION
from conceptguard.method import Method
from conceptguard.registry import shipped_folder
from conceptguard.registry.manifest import Manifest, parse_manifest

SHIPPED = "conceptguard_plugins"
PAGES = Path(__file__).parents[1] / "docs" / "methods"
FIGURES = {
    "erased": "concept recognised", "neighbours": "neighbours recognised", "others": "others recognised",
}  # fmt: skip


def names() -> list[str]:
    """The shipped methods, in the order of their hooks: prompt, layers, noise, image, text."""
    order = ["encode_prompt", "cross_attention", "condition", "predict_noise", "check_image"]
    found = {name: method for name, method in plugins.methods().items() if method.__module__.startswith(SHIPPED)}

    def place(name: str) -> tuple[int, str]:
        hooks = plugins.hooks(found[name])
        return max((order.index(hook) for hook in hooks if hook in order), default=len(order)), name

    return sorted(found, key=place)


def hooks_of(method: type[Method]) -> list[str]:
    """The generation hooks that a method implements, in the order of a generation."""
    from conceptguard.hookspecs import Generation

    return [name for name in vars(Generation) if name in GENERATION & plugins.hooks(method)]


def table() -> str:
    """All shipped methods, a line each."""
    rows = []
    for name in names():
        method = plugins.method(name)
        hooks = ", ".join(f"`{h}`" for h in hooks_of(method))
        rows.append([f"[`{name}`]({name}.md)", summary(name), acts_on(method), hooks])
    return rows_as_table(["method", "what it does", "guards", "hooks"], rows)


def summary(name: str) -> str:
    """A method in a sentence: the first paragraph of its page, or the first line of its class."""
    page = PAGES / f"{name}.md"
    if page.is_file():
        return " ".join(page.read_text(encoding="utf-8").split("\n\n")[1].split())
    return as_markdown((inspect.getdoc(plugins.method(name)) or "").split("\n")[0])


def about(name: str) -> str:
    """What stands on a method's page beside its prose."""
    method = plugins.method(name)
    needs = {
        "artifact": "an artifact (`artifact: family/method/name`)",
        "concept": "a concept with prompts (`concept: {name: …, prompts: […]}`), or an artifact",
        "nothing": "nothing but its name",
    }[method.needs]
    makes = method.learn.__func__ is not Method.learn.__func__  # type: ignore[attr-defined]
    facts = {
        "A policy must give it": needs,
        "Hooks": ", ".join(f"`{hook}`" for hook in hooks_of(method)),
        "Makes artifacts": f"`conceptguard make {name}`" if makes else "no",
        "Code": f"`{method.__module__}.{method.__name__}`",
    }
    parts = [
        f"> {_paragraph(inspect.getdoc(method) or '')}",
        "\n".join(f"- {key}: {told}" for key, told in facts.items()),
    ]
    parts += [
        "## Settings",
        _settings(method.Settings) or "None beyond those that [every guard has](../guides/policy.md).",
    ]
    if makes:
        told = _settings(method.MakeSettings) or "None."
        parts += ["## Settings of `make`", f"`conceptguard make {name} --set KEY=VALUE`", told]
    parts += ["## Shipped artifacts", _artifacts(name) or "None."]
    return "\n\n".join(parts)


def _settings(model: type[BaseModel]) -> str:
    """A table of a settings class: names, types, defaults, and the meanings that its docstring gives."""
    if not model.model_fields:
        return ""
    meanings, remarks = meanings_of(model)
    rows: list[list[str]] = []
    for name, field in model.model_fields.items():
        row = [f"`{name}`", type_of(field), default_of(field), meanings.get(name, "")]
        if rows and row[3] and row[3] == rows[-1][3]:  # settings that are explained in one go
            row = [*(f"{above}<br>{own}" for above, own in zip(rows.pop(), row[:3])), row[3]]
        rows.append(row)
    return "\n\n".join([rows_as_table(["setting", "type", "default", "meaning"], rows), *remarks])


def meanings_of(model: type[BaseModel]) -> tuple[dict[str, str], list[str]]:
    """What a docstring says about each field, and what it says besides, as Markdown."""
    told, remarks = fields.meanings(model)
    return {key: as_markdown(meaning) for key, meaning in told.items()}, [as_markdown(remarks)] if remarks else []


def type_of(field: Any) -> str:
    return fields.kind(field, "`")


def default_of(field: Any) -> str:
    return fields.default(field, "`", "<br>")


@cache
def manifests() -> dict[str, list[Manifest]]:
    """The shipped artifacts by method."""
    found: dict[str, list[Manifest]] = {}
    for path in sorted(Path(shipped_folder()).glob("*/*/*/artifact.yaml")):
        manifest = parse_manifest(path.read_bytes(), path.name)
        found.setdefault(manifest.method, []).append(manifest)
    return found


def _artifacts(name: str) -> str:
    """The shipped artifacts of a method with the figures of their cards, and the command that wrote these."""
    shipped = manifests().get(name, [])
    if not shipped:
        return ""
    titles = [title for key, title in FIGURES.items() if any(f"{key}_before" in m.card for m in shipped)]
    keys = [key for key, title in FIGURES.items() if title in titles]
    rows = []
    for manifest in shipped:
        card = manifest.card
        figures = [
            f"{card[f'{k}_before']:.3f} → {card[f'{k}_after']:.3f}" if f"{k}_after" in card else "" for k in keys
        ]
        same = f"{card['identical']:.2f}" if "identical" in card else ""
        size = sum(file.size for file in manifest.files if file.path.endswith(".safetensors"))
        rows.append([f"`{manifest.ref}`", f"{size / 1024:,.0f} KiB", *figures, same, str(card.get("n", ""))])
    measured = bool(titles)
    table = rows_as_table(
        ["artifact", "size", *titles, *(["others identical", "samples"] if measured else [])],
        rows if measured else [row[:2] for row in rows],
    )
    commands = sorted({str(m.card["command"]) for m in shipped if "command" in m.card})
    if not commands:
        return f"{table}\n\nTheir cards hold no figures."
    told = "Share of samples in which the judge recognises it, without → with the guard, from the artifacts' cards"
    # One line stands for all: the commands differ in the concept.
    general = sorted({re.sub(r"--concepts \S+", "--concepts NAME", command) for command in commands})
    return f"{table}\n\n{told}:\n\n```bash\n" + "\n".join(general) + "\n```"


def rows_as_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(head), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )


def as_markdown(text: str) -> str:
    """A docstring's text as Markdown: literals as code, and nothing that would be taken for a list or emphasis."""
    text = re.sub(r"``([^`]+)``", r"`\1`", " ".join(text.split()))
    return re.sub(r"(?<!`)([*_{}<>])(?![^`]*`[^`]*$)", lambda m: f"\\{m[1]}", text) if "`" not in text else text


def _paragraph(text: str) -> str:
    return " ".join(re.sub(r"``([^`]+)``", r"`\1`", text.split("\n\n")[0]).split())
