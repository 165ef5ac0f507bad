"""Tables that are read from the code: keys of policies and manifests, hooks, errors, the contract's checks."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, get_args

from conceptguard import errors as errors_module
from conceptguard.hookspecs import Generation, SetUp
from conceptguard.measuring.protocols import Pinned, Protocol, protocols
from conceptguard.measuring.suite import Object, Suite
from conceptguard.policy import Guard, Policy
from conceptguard.registry import settings
from conceptguard.registry.manifest import Base, Concept, File, Manifest
from conceptguard.testing import contract

from .methods import as_markdown, default_of, meanings_of, rows_as_table, type_of

PACKAGE = Path(errors_module.__file__).parent


def policy() -> str:
    """The keys of a policy and of each of its guards."""
    return "\n\n".join(
        ["### Of the file", _keys(Policy), "### Of each guard", _keys(Guard), "### Of a concept", _keys(_concept())]
    )


def _concept() -> Any:
    return next(kind for kind in get_args(Guard.model_fields["concept"].annotation) if kind is not type(None))


def manifest() -> str:
    """The keys of ``artifact.yaml``."""
    parts = []
    for title, model in (("artifact.yaml", Manifest), ("concept", Concept), ("base", Base), ("files[]", File)):
        parts += [f"### `{title}`", _paragraph(model), _keys(model)]
    return "\n\n".join(parts)


def suite() -> str:
    """The keys of a suite of prompts to judge with."""
    return "\n\n".join(["### Of the file", _keys(Suite), "### Of each object", _keys(Object)])


def protocol() -> str:
    """The keys of a protocol and of each of its prompt sets."""
    return "\n\n".join(["### Its keys", _keys(Protocol), "### Of each set", _keys(Pinned)])


def known_protocols() -> str:
    """The published protocols: what looks, from which score on, and at what."""
    rows = [
        [f"`{name}`", as_markdown(one.about), f"{one.detector or '?'} {one.threshold or '?'}",
         f"{one.steps or '?'} steps, {one.scheduler or '?'}, guidance {one.guidance or '?'}",
         ", ".join(f"`{key}` {pinned.figure} {pinned.rows or '?'}" for key, pinned in one.sets.items()),
         ", ".join(one.unknown)]
        for name, one in protocols().items()
    ]  # fmt: skip
    return rows_as_table(
        ["protocol", "whose figures", "detector", "drawn with", "sets: figure, prompts", "not known"], rows
    )


def _keys(model: Any) -> str:
    meanings, _ = meanings_of(model)
    rows = [
        [f"`{field.alias or name}`", type_of(field), default_of(field), meanings.get(name, "")]
        for name, field in model.model_fields.items()
    ]
    if not any(row[3] for row in rows):
        return rows_as_table(["key", "type", "default"], [row[:3] for row in rows])
    return rows_as_table(["key", "type", "default", "meaning"], rows)


def _paragraph(thing: Any) -> str:
    return as_markdown(" ".join((inspect.getdoc(thing) or "").split()))


def hooks() -> str:
    """All hooks: when each is called, and what it is given."""
    rows = []
    for group, kind in ((SetUp, "set-up"), (Generation, "generation")):
        for name, function in vars(group).items():
            if not name.startswith("_"):
                given = [
                    str(p).replace("'", "") for p in inspect.signature(function).parameters.values() if p.name != "self"
                ]
                rows.append([f"`{name}`", kind, f"`{', '.join(given)}`" if given else "", _paragraph(function)])
    return rows_as_table(["hook", "", "given", "when, and what it may do"], rows)


def errors() -> str:
    """Every error by name, with what it derives from."""
    rows = [
        [f"`{name}`", f"`{cls.__bases__[0].__name__}`", as_markdown((inspect.getdoc(cls) or "").split("\n\n")[0])]
        for name, cls in vars(errors_module).items()
        if inspect.isclass(cls) and issubclass(cls, Exception) and cls.__module__ == errors_module.__name__
    ]
    return rows_as_table(["error", "derives from", "when"], rows)


def checks() -> str:
    """The checks of the contract by promise, for pictures and for text."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for kind, listed in (
        ("pictures", contract._CHECKS),
        ("text", contract._TEXT_CHECKS),
        ("modules", contract._MODULE_CHECKS),
    ):
        for promise, check in listed:
            found.setdefault((str(promise), check.__name__, _paragraph(check)), []).append(kind)
    rows = [[promise, f"`{name}`", ", ".join(kinds), told] for (promise, name, told), kinds in found.items()]
    rows.sort(key=lambda row: row[0])
    return rows_as_table(["promise", "check", "of", "what it demands"], rows)


MEANINGS = {
    **dict(settings.MEANINGS.values()),
    "CONCEPTGUARD_SETTINGS": "another settings file than the one in your configuration folder",
    "CONCEPTGUARD_KEYS": "the folder of private keys that `conceptguard sign` signs with",
    "CONCEPTGUARD_PASSPHRASE": "opens those of them that are encrypted, and encrypts new ones",
    "CONCEPTGUARD_ENFORCE": "in ComfyUI: the policy that every prompt of the server is held to",
    "CONCEPTGUARD_AUDIT": "in ComfyUI: the file that gets a line for every prompt under enforcement",
    "CONCEPTGUARD_TRUST": "in ComfyUI: custom nodes that may show pictures or decode latents under enforcement",
}


SOCKETS = {"CONCEPTGUARD_POLICY"}  # types of ComfyUI's, which look alike


def variables() -> str:
    """The environment variables that the code reads, and no other."""
    folders = [PACKAGE, PACKAGE.parent / "nodes", PACKAGE.parent / "plugins"]
    text = "".join(path.read_text(encoding="utf-8") for folder in folders for path in folder.rglob("*.py"))
    found = sorted(set(re.findall(r"\bCONCEPTGUARD_[A-Z]+\b", text)) - SOCKETS)
    return rows_as_table(["variable", "what it does"], [[f"`{name}`", MEANINGS.get(name, "")] for name in found])
