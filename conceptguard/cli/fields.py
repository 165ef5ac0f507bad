"""Settings as their classes tell them: names, types, defaults, and what each means."""

from __future__ import annotations

import inspect
import re
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined


def settings_rows(model: type[BaseModel]) -> list[dict[str, str]]:
    """A flat row for every setting."""
    told, _ = meanings(model)
    return [
        {"setting": name, "type": kind(field), "default": default(field), "meaning": told.get(name, "")}
        for name, field in model.model_fields.items()
    ]


def meanings(model: type[BaseModel]) -> tuple[dict[str, str], str]:
    """What a docstring says about each field, as ``name, name: meaning``, and what it says besides.

    Of a field that it does not name, what the docstrings of the classes say that it comes from.
    """
    own = vars(model).get("__doc__") or ""
    fields = set(model.model_fields)
    found: dict[str, str] = {}
    inherited = {name: told for base in model.__bases__ if issubclass(base, BaseModel) and base is not BaseModel
                 for name, told in meanings(base)[0].items()}  # fmt: skip
    remarks: list[str] = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(own)):
        entries: list[list[str]] = []
        for line in block.split("\n"):
            # "a: this; b: that" on one line are two entries, where both are settings.
            first, *more = re.split(r";\s+(?=[a-z_]\w*(?:, [a-z_]\w*)*: )", line)
            for part in (first, *more):
                begins = re.match(r"([a-z_]\w*(?:, [a-z_]\w*)*): ?(.*)", part)
                if begins and set(begins[1].split(", ")) <= fields:
                    entries.append([begins[1], begins[2]])
                elif entries:
                    entries[-1][1] += f"{' ' if part is first else '; '}{part}"
                else:
                    remarks.append(part)
        for keys, meaning in entries:
            for key in keys.split(", "):
                found[key] = "; ".join(filter(None, [found.get(key), " ".join(meaning.split())]))
    return {**inherited, **found}, " ".join(" ".join(remarks).split())


def kind(field: Any, quote: str = "") -> str:
    """The type of a field in words, limits included, e.g. ``float, > 0``. quote: around values that are words."""
    limits = [f"{sign} {value:g}" for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
              for limit in field.metadata if (value := getattr(limit, name, None)) is not None]  # fmt: skip
    return ", ".join([_annotation(field.annotation, quote), *limits])


def _annotation(kind: Any, quote: str) -> str:
    if kind is type(None):
        return "none"
    if str(kind).startswith("typing.Literal"):
        return " or ".join(f"{quote}{value}{quote}" for value in get_args(kind))
    inner = list(get_args(kind))
    if hasattr(kind, "__metadata__"):  # Annotated: its limits are the code's
        return _annotation(inner[0], quote)
    if inner and "Union" in str(type(kind)) + str(getattr(kind, "__origin__", "")):
        return " or ".join(_annotation(one, quote) for one in inner)
    name = getattr(getattr(kind, "__origin__", kind), "__name__", str(kind))
    return f"{name} of {', '.join(_annotation(one, quote) for one in inner)}" if inner else name


def default(field: Any, quote: str = "", between: str = ", ") -> str:
    """The default of a field as a policy would write it. between: the parts of a long list."""
    if field.is_required():
        return "required"
    value = field.default_factory() if field.default_factory else field.default
    if value is None:
        return "none"
    if value is PydanticUndefined:
        return ""
    if isinstance(value, list) and len(value) > 3:
        return between.join(f"{quote}{one}{quote}" for one in value)
    if isinstance(value, str) and (not value or value != value.strip()):
        return f"{quote}{value!r}{quote}"
    return f"{quote}{str(value).lower() if isinstance(value, bool) else value}{quote}"
