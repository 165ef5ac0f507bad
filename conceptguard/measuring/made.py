"""A method's artifact made anew and judged attached: the row that every suite of small models has in common."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ConceptGuardError
from ..plugins import host_for
from ..plugins import method as method_named
from ..policy import Policy
from ..policy_file import load_policy

Row = dict[str, Any]


def made(
    model: Any, method: str, about: dict[str, Any], out: Path, settings: dict[str, Any],
    judge: Callable[[Policy, str, float], Row], name: str = "",
) -> Row:  # fmt: skip
    """What ``judge(policy, concept, seconds of the processor)`` finds, and how many bytes the artifact has. Where the
    method refuses, a row says why.

    about: the concept; name: what the row is called [the method]
    """
    name, concept, began = name or method, about["name"], time.process_time()
    try:
        artifact = method_named(method).make(host_for(model), about, out, progress=False, **settings)
    except ConceptGuardError as error:
        return {"method": name, "concept": concept, "passes": False, "refused": str(error)}
    seconds = time.process_time() - began
    policy = load_policy({"name": name, "guards": [{"method": method, "artifact": str(artifact.folder)}]})
    return {**judge(policy, concept, seconds), "bytes": artifact.size}
