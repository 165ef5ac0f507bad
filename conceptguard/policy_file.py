"""Policy files, read and validated with errors that name the line."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from os.path import isfile  # where Path.is_file raises OSError, as on a policy of one long line, this says no
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from . import plugins
from .concept import Concept
from .errors import PolicyError, meant, shown
from .policy import Guard, Policy

if TYPE_CHECKING:
    from .method import Method

Lines = Mapping[tuple[Any, ...], int]


def load_policy(source: str | Path | Mapping[str, Any] | Policy) -> Policy:
    """A policy from a file, a shipped policy's name, YAML text, a dict, or itself. Raises PolicyError with the line.

    Text with a brace or a line break is YAML: ``{guards: [{method: spm, artifact: emoji-sd/spm/beer}]}``.
    """
    if isinstance(source, Policy):
        return source
    if isinstance(source, Mapping):
        return _validate(dict(source), "policy", {})
    from .files.yaml import parse, read_yaml

    if isinstance(source, str) and written_out(source):
        data, lines = parse(source, name=INLINE, error=PolicyError)
        return _validate(_mapping(data, INLINE), INLINE, lines)
    path = _find(source)
    data, lines = read_yaml(path)
    policy = _validate({"name": path.stem, **_mapping(data, str(path))}, str(path), lines)
    for guard in policy.guards:
        guard._folder = path.parent
        if guard.artifact and guard.artifact.startswith(("./", "../")):  # wherever the file goes with its folders
            guard.artifact = str((path.parent / guard.artifact).resolve())
    return policy


INLINE = "the policy"


def written_out(source: str) -> bool:
    """Whether text is a policy itself, and not where one is."""
    return "\n" in source.strip() or ("{" in source and not isfile(source))


def _mapping(data: Any, where: str) -> dict[str, Any]:
    if isinstance(data, dict):
        return data
    raise PolicyError(f"{where}: a policy is a mapping with 'guards', e.g. {{guards: [{{method: spm, artifact: …}}]}}")


def acting(policy: Policy, *hooks: str) -> Policy:
    """The same policy with only those guards that act through one of these hooks."""
    kept = [g for g in policy.guards if any(hasattr(plugins.method(g.method), hook) for hook in hooks)]
    return policy.model_copy(update={"guards": kept})


def policy_key(source: str | Path | Mapping[str, Any] | Policy) -> Hashable:
    """What tells two policies apart without reading them: of a file its name, size and when it was written."""
    if isinstance(source, Policy):
        return source.model_dump_json(), tuple(guard._folder for guard in source.guards)
    if isinstance(source, Mapping):
        return json.dumps(source, default=repr)
    if isinstance(source, str) and written_out(source):
        return source
    from .registry import shipped_folder

    for path in (Path(source), shipped_folder() / "policies" / f"{source}.yaml"):
        try:
            told = path.stat()
        except (OSError, ValueError):
            continue
        if S_ISREG(told.st_mode):
            return str(path.absolute()), told.st_ino, told.st_size, told.st_mtime_ns
    return source


def shipped_policies() -> dict[str, Path]:
    """The policies that come with the shipped registry, by name."""
    from .registry import shipped_folder

    return {p.stem: p for p in sorted((shipped_folder() / "policies").glob("*.yaml"))}


def shipped_policy(name: str) -> Path:
    """The file of one of them. Raises PolicyError where there is none, or where it is not the one that was signed."""
    known = shipped_policies()
    if name in known:
        from .registry.signed.beside import shipped

        return shipped(f"policies/{known[name].name}", PolicyError)
    hint = meant(name, known, f"shipped policies: {', '.join(known) or 'none'}")
    raise PolicyError(f"no policy file or shipped policy '{shown(name)}': {hint}")


def _find(source: str | Path) -> Path:
    return Path(source) if isfile(source) else shipped_policy(str(source))


def _validate(data: dict[str, Any], where: str, lines: Lines) -> Policy:
    try:
        policy = Policy(**data)
    except ValidationError as error:
        raise _error(where, lines, data, error) from None
    method_of = cache(plugins.method)  # a thousand guards, as a rule, are of a few methods
    for i, guard in enumerate(policy.guards):
        method = _method(method_of, guard, where, lines, i)
        try:
            method.Settings(**guard.settings)
        except ValidationError as error:
            raise _error(where, lines, data, error, ("guards", i), method) from None
    return policy


def _method(method_of: Callable[[str], type[Method]], guard: Guard, where: str, lines: Lines, i: int) -> type[Method]:
    """The method of a guard, which must have been given what it needs."""
    try:
        method = method_of(guard.method)
        if method.needs == "artifact" and not guard.artifact:
            raise PolicyError(f"method '{guard.method}' needs an artifact: see `conceptguard list`")
        if guard.artifact and guard.concept and not method.any_concept:
            raise PolicyError(f"method '{guard.method}' takes an artifact or a concept, not both: leave one out")
        if method.needs == "concept" and not (guard.artifact or guard.concept):
            raise PolicyError(f"method '{guard.method}' needs a concept with prompts, or an artifact")
        if guard.preserve and (guard.gate != "prompt" or "cross_attention" not in plugins.hooks(method)):
            raise PolicyError("preserve is what a gate by prompt stays shut for, and this guard has none: leave it out")
    except PolicyError as error:
        raise PolicyError(f"{_at(where, lines, ('guards', i, 'method'))}: {error}") from None
    return method


def _error(
    where: str,
    lines: Lines,
    data: Any,
    error: ValidationError,
    start: tuple[Any, ...] = (),
    method: type[Method] | None = None,
) -> PolicyError:
    """Pydantic's first complaint as one line with its place in the file."""
    first = error.errors()[0]
    place = start + tuple(first["loc"])
    if first["type"] == "extra_forbidden":
        key = str(place[-1])
        known = _known_keys(place, method)
        hint = meant(key, known, f"known keys are {', '.join(known)}")
        text = f"unknown key '{shown(key)}': {hint}"
    elif first["type"] == "literal_error":
        text = f"{_dotted(place)}: '{shown(first['input'])}' is not one of {first['ctx']['expected']}"
    else:
        text = f"{_dotted(place)}: {shown(first['msg'].removeprefix('Value error, '), 1000)}"
    return PolicyError(f"{_at(where, lines, place)}: {text}")


def _at(where: str, lines: Lines, place: tuple[Any, ...]) -> str:
    """file:line of the innermost part of ``place`` that stands in the file."""
    line = next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), None)
    return f"{where}:{line}" if line else where


def _dotted(place: tuple[Any, ...]) -> str:
    return shown(".".join(str(p) for p in place)) or "policy"


def _known_keys(place: tuple[Any, ...], method: type[Method] | None) -> list[str]:
    if "concept" in place:
        return list(Concept.model_fields)
    if method is not None:
        return [*Guard.model_fields, *method.Settings.model_fields]
    return list(Policy.model_fields)
