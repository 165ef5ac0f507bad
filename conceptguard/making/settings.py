"""What a maker, or a finder, takes as options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from ..errors import PolicyError, meant

if TYPE_CHECKING:
    from .task import Maker


def make_settings(method: type[Maker], options: Mapping[str, Any], **others: Any) -> Any:
    """A method's MakeSettings from options and those of ``others`` that are not None. Raises PolicyError by name."""
    given = {**options, **{name: value for name, value in others.items() if value is not None}}
    return read_options(method.MakeSettings, given, f"making {method.name}")


def known_of(method: type[Maker], made: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that an artifact was made with, to make one again: what an earlier version wrote and the method knows no
    longer is left out."""
    return {name: value for name, value in made.items() if name in method.MakeSettings.model_fields}


def read_options(model: type[BaseModel], options: Mapping[str, Any], what: str) -> Any:
    """Settings from options. what: is asked for, for errors. Raises PolicyError by name."""
    try:
        return model(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        hint = meant(name, model.model_fields, f"known are {', '.join(model.model_fields)}")
        why = f"unknown option; {hint}" if first["type"] == "extra_forbidden" else first["msg"]
        told = [what, name, why.removeprefix("Value error, ")]
        raise PolicyError(": ".join(filter(None, told))) from None  # a rule about several options has no name
