"""Strict YAML for files that strangers write: plain data in, plain data out, and the line of every value.

Of YAML only the plain part is read: mappings with text keys, lists, text, numbers, true/false, null. Anchors
and aliases (which make "bombs" possible), tags (which name types), merge keys, several documents, repeated
keys, deep nesting and files over the size limit are refused. `no`, `on` and `12:30` stay text, as in YAML
1.2; dates stay text as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conceptguard.errors import ConceptGuardError, PolicyError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_DIGITS = 40

Where = tuple[Any, ...]
Lines = dict[Where, int]

_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.?[0-9]*)([eE][-+]?[0-9]+)?\Z")
_BEGINS = frozenset("+-.0123456789")  # what a number begins with
_NAMED: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_NAMED |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def read_yaml(
    path: Path, *, max_bytes: int = MAX_BYTES, error: type[ConceptGuardError] = PolicyError
) -> tuple[Any, Lines]:
    """Read one file; see `parse`. A missing or over-long file raises `error` before anything is parsed."""
    try:
        with open(path, "rb") as handle:
            data = handle.read(max_bytes + 1)
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror}): check the path and its permissions") from None
    return parse(data, name=str(path), max_bytes=max_bytes, error=error)


def parse(
    data: bytes | str,
    *,
    name: str = "the YAML text",
    max_bytes: int = MAX_BYTES,
    error: type[ConceptGuardError] = ConceptGuardError,
) -> tuple[Any, Lines]:
    """Parse YAML into plain data and a map from place to line.

    A place is the tuple of keys and list positions that leads to a value, e.g. `("guards", 0, "method")`; the
    empty tuple is the whole document. Lines count from 1. Anything outside the plain part raises `error`,
    naming file and line.
    """
    import yaml

    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    if len(data) > max_bytes:
        raise error(f"{name}: larger than {max_bytes:,} bytes: this is not a file to be read here; make it smaller")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise error(f"{name}: not UTF-8 text (byte {cause.start}): save it as UTF-8") from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Reader(yaml.parse(text, Loader=loader), name, error).document()
    except yaml.YAMLError as cause:
        mark = getattr(cause, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(cause, "problem", None) or getattr(cause, "reason", None) or "unreadable"
        raise error(f"{name}{place}: not valid YAML ({problem}): correct the line") from None


def dump(data: Any) -> str:
    """Write plain data so that `parse` gives back exactly the same; keys keep their order."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        # Two readings of YAML meet here: what looks like a number only to ours ("1e5") needs quotes as well. So do the
        # rarer line breaks, which are folded into spaces unless they are escaped.
        plain = _scalar(value) is value and value.replace("\n", "").isprintable()
        style = None if plain else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    def number(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
        if not math.isfinite(value):
            raise ValueError("a number that is not finite cannot be written to YAML")
        return dumper.represent_scalar("tag:yaml.org,2002:float", _float_text(value))

    Dumper.add_representer(str, text)
    Dumper.add_representer(float, number)
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)


def _float_text(value: float) -> str:
    text = repr(value)
    # PyYAML tags a bare `1e-05` as a string and would spell the tag out; a point keeps it a plain float.
    return text if "." in text else text.replace("e", ".0e", 1)


def _scalar(text: str) -> Any:
    """The value of an unquoted scalar; `text` itself (the same object) when it is text."""
    if text in _NAMED:
        return _NAMED[text]
    if len(text) <= MAX_DIGITS and text[0] in _BEGINS:
        if _INT.match(text):
            return int(text)
        if _FLOAT.match(text):
            value = float(text)
            return value if math.isfinite(value) else text
    return text


class _Reader:
    """Turns parser events into data. Events, not PyYAML's own nodes: an alias is seen before anything is
    built.
    """

    def __init__(self, events: Iterator[Any], name: str, error: type[ConceptGuardError]) -> None:
        import yaml

        self.events, self.name, self.error = events, name, error
        self.lines: Lines = {}
        # A thousand manifests have a quarter of a million values, of each of which this is asked.
        self.text: Any = yaml.ScalarEvent
        self.starts: Any = yaml.SequenceStartEvent
        self.ends: Any = yaml.SequenceEndEvent
        self.closes: Any = yaml.MappingEndEvent

    def fail(self, event: Any, problem: str) -> ConceptGuardError:
        return self.error(f"{self.name}, line {event.start_mark.line + 1}: {problem}")

    def document(self) -> tuple[Any, Lines]:
        import yaml

        value: Any = None
        seen = False
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if seen:
                    raise self.fail(event, "a second document starts here: keep one document per file")
                seen = True
                value = self.value(next(self.events), (), 0)
        return value, self.lines

    def value(self, event: Any, place: Where, depth: int, line: int | None = None) -> Any:
        self.lines[place] = line or event.start_mark.line + 1
        self.check(event, depth)
        if type(event) is self.text:
            return _scalar(event.value) if event.implicit[0] else event.value
        if type(event) is self.starts:
            return self.sequence(place, depth)
        return self.mapping(place, depth)

    def check(self, event: Any, depth: int) -> None:
        if event.anchor is not None:
            raise self.fail(event, "anchors and aliases (& and *) are not allowed: write the value out")
        if event.tag is not None:
            raise self.fail(event, f"the tag {str(event.tag)[:60]!r} is not allowed: write plain values only")
        if depth > MAX_DEPTH:
            raise self.fail(event, f"nested deeper than {MAX_DEPTH} levels: flatten it")

    def sequence(self, place: Where, depth: int) -> list[Any]:
        items: list[Any] = []
        for event in self.events:
            if type(event) is self.ends:
                break
            items.append(self.value(event, (*place, len(items)), depth + 1))
        return items

    def mapping(self, place: Where, depth: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        for event in self.events:
            if type(event) is self.closes:
                break
            if type(event) is not self.text:
                raise self.fail(event, "a key must be plain text")
            line = event.start_mark.line + 1
            key = event.value
            inner = (*place, key)
            self.lines[inner] = line
            self.check(event, depth + 1)
            if key == "<<" and event.implicit[0]:
                raise self.fail(event, "merge keys (<<) are not allowed: write the entries out")
            if key in items:
                raise self.fail(event, f"the key {key[:60]!r} is given twice: keep one of them")
            items[key] = self.value(next(self.events), inner, depth + 1, line)
        return items
