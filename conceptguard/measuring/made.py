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
    """What ``judge(policy, concept, seconds of the processor)`` finds, and how many bytes the artifact has. Seconds are
    of a request to a model that the method was prepared for. Where the method refuses, a row says why.

    about: the concept; name: what the row is called [the method]
    """
    name, concept, kind, host = name or method, about["name"], method_named(method), host_for(model)
    try:
        kind.prepare(host, progress=False, **settings)
        began = time.process_time()
        artifact = kind.make(host, about, out, progress=False, **settings)
    except ConceptGuardError as error:
        return {"method": name, "concept": concept, "passes": False, "refused": str(error)}
    seconds = time.process_time() - began
    policy = load_policy({"name": name, "guards": [{"method": method, "artifact": str(artifact.folder)}]})
    return {**judge(policy, concept, seconds), "bytes": artifact.size}
