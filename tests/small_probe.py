"""A probe of strawberries against bicycles and penguins, from few pictures in few steps: drawn and learned once."""

from __future__ import annotations

import tempfile
from functools import cache
from typing import Any

from conceptguard.plugins import host_for, method
from conceptguard.testing import embedded_model

FOLDER = tempfile.TemporaryDirectory()  # goes with the process


@cache
def strawberry_probe() -> Any:
    """The artifact, for the embedded model."""
    return method("probe").make(
        host_for(embedded_model()), {"name": "strawberry", "prompts": ["strawberry"]}, FOLDER.name,
        preserve=["bicycle", "penguin"], templates=["{}, fluent style", "{}, noto style"], images=24, draw_steps=8,
        steps=80, progress=False,
    )  # fmt: skip
