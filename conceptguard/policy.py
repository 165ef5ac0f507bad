"""Policy files: which guards, and what happens on a violation. Validated with errors that name the line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from . import plugins
from .errors import PolicyError

if TYPE_CHECKING:
    from .method import Method

Lines = Mapping[tuple[Any, ...], int]
Action = Literal["flag", "blur", "black", "reject", "retry"]
_STRICTNESS: list[Action] = ["flag", "blur", "black", "retry", "reject"]


class Concept(BaseModel):
    """What must not appear: its name, the prompts that evoke it, optionally what should appear instead."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    prompts: list[str] = Field(default_factory=list)
    replacement: str = ""

    @field_validator("prompts")
    @classmethod
    def _not_blank(cls, prompts: list[str]) -> list[str]:
        if not prompts or any(not p.strip() for p in prompts):
            raise ValueError("a concept needs prompts that evoke it, none of them blank, e.g. prompts: [pistol, gun]")
        return prompts


class Guard(BaseModel):
    """One method at work. Keys that are not listed here are the method's own settings.

    method: its name, see `conceptguard plugins`
    artifact: family/method/name in a registry, an unmistakable end of it, or a folder
    concept: what must not appear, for methods that need no artifact
    strength: how much of what the guard does, where that has a measure
    gate: when it opens: by what the prompt asks for, always, or always as far as a number says
    preserve: what stands near the concept and must leave a gate by prompt shut
    """

    model_config = ConfigDict(extra="allow")
    method: str
    artifact: str | None = None
    concept: Concept | None = None
    strength: float = Field(default=1.0, ge=0)
    gate: Literal["prompt", "always"] | float = "prompt"
    preserve: list[str] = Field(default_factory=list)
    _folder: Path = PrivateAttr(default=Path())

    def beside(self, file: str) -> Path:
        """A file that a setting names, relative to the policy's own file where there is one."""
        return self._folder / Path(file).expanduser()

    @property
    def settings(self) -> dict[str, Any]:
        """The method's own settings, still to be validated by the method."""
        return dict(self.model_extra or {})

    @property
    def label(self) -> str:
        """How errors and receipts call this guard."""
        return " ".join(filter(None, [self.method, self.artifact, self.concept.name if self.concept else None]))


class Policy(BaseModel):
    """A list of guards, and what happens to an image that violates it.

    name: what receipts and errors call it; of a file, by default, the file's name
    on_violation: what becomes of an image that a guard flags
    guards: all of them act, in this order where order matters
    retries: for ``retry``, how often a flagged image is drawn again from another seed before it is rejected
    unread: embeddings that were encoded while the policy was not attached carry no text, so that gates have less to
    go by: ``compare`` them alone, or ``refuse`` them
    """

    model_config = ConfigDict(extra="forbid")
    name: str = "policy"
    on_violation: Action = "reject"
    retries: int = Field(default=3, ge=1)
    unread: Literal["compare", "refuse"] = "compare"
    guards: list[Guard] = Field(default_factory=list)


def load_policy(source: str | Path | Mapping[str, Any] | Policy) -> Policy:
    """A policy from a file, a shipped policy's name, a dict, or itself. Raises PolicyError with file and line."""
    if isinstance(source, Policy):
        return source
    if isinstance(source, Mapping):
        return _validate(dict(source), "policy", {})
    from .yaml import read_yaml

    path = _find(source)
    data, lines = read_yaml(path)
    if not isinstance(data, dict):
        raise PolicyError(f"{path}: a policy is a mapping with 'guards', see `conceptguard generate --help`")
    policy = _validate({"name": path.stem, **data}, str(path), lines)
    for guard in policy.guards:
        guard._folder = path.parent
    return policy


def acting(policy: Policy, *hooks: str) -> Policy:
    """The same policy with only those guards that act through one of these hooks."""
    kept = [g for g in policy.guards if any(hasattr(plugins.method(g.method), hook) for hook in hooks)]
    return policy.model_copy(update={"guards": kept})


def together(*policies: Policy) -> Policy:
    """One policy of all guards, each once, with the strictest of what the policies do about images."""
    strictest = max(policies, key=lambda p: _STRICTNESS.index(p.on_violation))
    guards = list({g.model_dump_json(): g for p in policies for g in p.guards}.values())
    return Policy(
        name=" + ".join(dict.fromkeys(p.name for p in policies)), guards=guards, on_violation=strictest.on_violation,
        retries=min(p.retries for p in policies),
        unread="refuse" if any(p.unread == "refuse" for p in policies) else "compare",
    )  # fmt: skip


def shipped_policies() -> dict[str, Path]:
    """The policies that come with the shipped registry, by name."""
    from .registry import shipped_folder

    return {p.stem: p for p in sorted((shipped_folder() / "policies").glob("*.yaml"))}


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    shipped = shipped_policies()
    if str(source) in shipped:
        return shipped[str(source)]
    near = difflib.get_close_matches(str(source), shipped, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"shipped policies: {', '.join(shipped) or 'none'}"
    raise PolicyError(f"no policy file or shipped policy '{source}': {hint}")


def _validate(data: dict[str, Any], where: str, lines: Lines) -> Policy:
    try:
        policy = Policy(**data)
    except ValidationError as error:
        raise _error(where, lines, data, error) from None
    for i, guard in enumerate(policy.guards):
        method = _method(guard, where, lines, i)
        try:
            method.Settings(**guard.settings)
        except ValidationError as error:
            raise _error(where, lines, data, error, ("guards", i), method) from None
    return policy


def _method(guard: Guard, where: str, lines: Lines, i: int) -> type[Method]:
    """The method of a guard, which must have been given what it needs."""
    try:
        method = plugins.method(guard.method)
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
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys are {', '.join(known)}"
        text = f"unknown key '{key}': {hint}"
    elif first["type"] == "literal_error":
        text = f"{_dotted(place)}: '{first['input']}' is not one of {first['ctx']['expected']}"
    else:
        text = f"{_dotted(place)}: {first['msg'].removeprefix('Value error, ')}"
    return PolicyError(f"{_at(where, lines, place)}: {text}")


def _at(where: str, lines: Lines, place: tuple[Any, ...]) -> str:
    """file:line of the innermost part of ``place`` that stands in the file."""
    line = next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), None)
    return f"{where}:{line}" if line else where


def _dotted(place: tuple[Any, ...]) -> str:
    return ".".join(str(p) for p in place) or "policy"


def _known_keys(place: tuple[Any, ...], method: type[Method] | None) -> list[str]:
    if "concept" in place:
        return list(Concept.model_fields)
    if method is not None:
        return [*Guard.model_fields, *method.Settings.model_fields]
    return list(Policy.model_fields)
