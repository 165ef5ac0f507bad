"""What a maker takes as options."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..errors import PolicyError

if TYPE_CHECKING:
    from .task import Maker


def make_settings(method: type[Maker], options: Mapping[str, Any], **others: Any) -> Any:
    """A method's MakeSettings from options and those of ``others`` that are not None. Raises PolicyError by name."""
    try:
        return method.MakeSettings(**options, **{name: value for name, value in others.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        known = method.MakeSettings.model_fields
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
        why = f"unknown option; {hint}" if first["type"] == "extra_forbidden" else first["msg"]
        raise PolicyError(f"making {method.name}: {name}: {why}") from None
