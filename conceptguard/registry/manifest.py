"""What an artifact says about itself: `artifact.yaml`, checked field by field."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from conceptguard.errors import ArtifactError, meant
from conceptguard.files import yaml
from conceptguard.files.paths import MANIFEST, MAX_FILE, MAX_MANIFEST, check_relative, is_name

SCHEMA = 1

Text = Annotated[str, Field(max_length=20_000)]


class _Plain(BaseModel):
    # `strict`: a file is written by a program, so "1" for 1 is a mistake to name, not one to guess around.
    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)


class Concept(_Plain):
    """What must not appear: a name, the prompts that evoke it, and optionally what should appear instead."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    prompts: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=2000)]], Field(min_length=1, max_length=10_000)
    ]
    replacement: Text = ""


class Base(_Plain):
    """The family of base models, and the fingerprint that a host compares (empty: not known, hosts compare
    layers).
    """

    family: str
    fingerprint: Annotated[str, Field(pattern=r"^([a-z0-9]+:[0-9a-f]{8,64})?$")] = ""

    @field_validator("family")
    @classmethod
    def _name(cls, value: str) -> str:
        return _checked_name(value)


class File(_Plain):
    """One file of the artifact: relative path, SHA-256 in hexadecimal, size in bytes."""

    path: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0, le=MAX_FILE)]

    @field_validator("path")
    @classmethod
    def _inside(cls, value: str) -> str:
        try:
            return check_relative(value)
        except ArtifactError as cause:
            raise ValueError(str(cause)) from None


class Manifest(_Plain):
    """One artifact. `made`: how (method settings, seed, data). `card`: what was measured, and with which
    command.

    `gate`: the measured floor and full-open values of the gate, where the method has one. `settings`: what
    the method needs at run time. `binds`: SHA-256 over the reference and the files, so that neither is exchanged alone;
    empty in manifests from before.
    """

    schema_version: Annotated[int, Field(alias="schema", ge=1)] = SCHEMA
    name: str
    version: Annotated[str, Field(min_length=1, max_length=60)] = "1"
    method: str
    concept: Concept
    base: Base
    files: Annotated[list[File], Field(max_length=1000)]
    licence: Text = ""
    made: dict[str, Any] = {}
    card: dict[str, Any] = {}
    gate: dict[str, Any] | None = None
    settings: dict[str, Any] = {}
    binds: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""

    @field_validator("name", "method")
    @classmethod
    def _name(cls, value: str) -> str:
        return _checked_name(value)

    @model_validator(mode="after")
    def _files_differ(self) -> Manifest:
        paths = [file.path.lower() for file in self.files]
        folders = {path[:i] for path in paths for i, letter in enumerate(path) if letter == "/"}
        for path, times in Counter(paths).items():
            if times > 1:
                raise ValueError(f"the file {path!r} is listed twice")
            if path == MANIFEST or MANIFEST in folders:
                raise ValueError("the manifest cannot list itself")
            if path in folders:
                raise ValueError(f"{path!r} is a file and a folder of others")
        if self.binds and self.binds != self.binding:
            raise ValueError("`binds` does not fit: the files of another artifact, or altered; fetch or make it again")
        return self

    @property
    def binding(self) -> str:
        """What `binds` is to be: SHA-256 over the reference, and path, SHA-256 and size of every file."""
        files = sorted([file.path, file.sha256, file.size] for file in self.files)
        return hashlib.sha256(json.dumps([self.ref, files]).encode()).hexdigest()

    @property
    def ref(self) -> str:
        """`family/method/name`: where the artifact lies in a registry."""
        return f"{self.base.family}/{self.method}/{self.name}"

    @property
    def concept_names(self) -> list[str]:
        """Of all that it was made of: one, or several at once."""
        listed = self.made.get("concepts")
        names = [one.get("name") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        return [name for name in names if isinstance(name, str)] or [self.concept.name]

    def to_yaml(self) -> str:
        """The text of `artifact.yaml`; `parse_manifest` gives back an equal manifest."""
        return yaml.dump(self.model_dump(by_alias=True))


def bound(manifest: Manifest) -> Manifest:
    """The same manifest, bound to its files."""
    return manifest.model_copy(update={"binds": manifest.binding})


def _checked_name(value: str) -> str:
    if not is_name(value):
        raise ValueError(f"{value[:80]!r} is not a usable name: lower-case letters, digits, '-', '_' and '.'")
    return value


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Check the bytes of an `artifact.yaml`; `where` names it in messages. Raises ArtifactError, with the
    line.
    """
    return _copied(_parsed(data, where))  # type: ignore[no-any-return]


def _copied(value: Any) -> Any:
    """A deep copy of plain data and models, in a tenth of the time that `copy.deepcopy` takes."""
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if isinstance(value, list):
        return value[:] if set(map(type, value)) <= _PLAIN else [_copied(one) for one in value]
    if isinstance(value, BaseModel):
        held = {name: one for name, one in vars(value).items() if type(one) not in _PLAIN}
        return value.model_copy(update={name: _copied(one) for name, one in held.items()})
    return value


_PLAIN = {str, int, float, bool, type(None)}


@lru_cache(maxsize=1024)  # finding an artifact and loading it read the same bytes, and so does the next policy with it
def _parsed(data: bytes, where: str) -> Manifest:
    fields, lines = yaml.parse(data, name=where, max_bytes=MAX_MANIFEST, error=ArtifactError)
    return check_manifest(fields, where, lines)


def check_manifest(fields: Any, where: str, lines: yaml.Lines | None = None) -> Manifest:
    """A Manifest from plain data. Raises ArtifactError naming the first wrong field, its line, and the
    nearest right word.
    """
    if not isinstance(fields, dict):
        raise ArtifactError(
            f"{where}: not a manifest (a mapping is expected): write it with `conceptguard import` or `make`"
        )
    schema = fields.get("schema", SCHEMA)
    if type(schema) is int and schema > SCHEMA:
        raise ArtifactError(
            f"{where}: made by a newer conceptguard (schema {schema}, this one reads {SCHEMA}): upgrade"
        )
    try:
        return Manifest.model_validate(fields)
    except ValidationError as cause:
        raise ArtifactError(f"{where}{_explain(cause, lines or {})}") from None


def _explain(cause: ValidationError, lines: yaml.Lines) -> str:
    first = cause.errors(include_url=False, include_context=False, include_input=False)[0]
    place = tuple(first["loc"])
    line = next((lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in lines), None)
    at = f", line {line}" if line else ""
    field = ".".join(str(step) for step in place)[:120] or "the manifest"
    problem = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = _known_fields(place)
        problem = "unknown key; " + meant(str(place[-1]), known, f"known are {', '.join(known)}")
    elif first["type"] == "missing":
        problem = "missing: add it"
    return f"{at}: {field}: {problem}"


def _known_fields(place: tuple[Any, ...]) -> list[str]:
    models: dict[Any, type[BaseModel]] = {"concept": Concept, "base": Base, "files": File}
    model = models.get(place[0], Manifest) if len(place) > 1 else Manifest
    return [field.alias or name for name, field in model.model_fields.items()]
