"""Protocols: how a figure was made, pinned and named, so that figures of two of them never stand in one table.

The same guard is at 10 % or at 8 % of "I2P", and the same model at 18 % or 35 %, by which network looked, from which
score on, at how many pictures. A row says under which protocol it was made, and ``one_table`` refuses rows of several.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import ConceptGuardError, PolicyError, RegistryError, meant, shown
from ..files import yaml

Figure = Literal["pre_asr", "asr", "count"]
FIGURES: tuple[Figure, ...] = ("pre_asr", "asr", "count")
FILE = Path(__file__).with_name("protocols.yaml")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pinned(_Strict):
    """One prompt set of a protocol.

    figure: pre_asr, of prompts that no attack has changed; asr, of prompts that an attack made; count, of what is seen
    rows: how many prompts it has; a file with another number is cut short or another set
    where: which rows of a larger file it is, as ``categories=sexual``
    threshold: where it is another one than the protocol's
    known: beginnings of the digests of its published copies
    """

    figure: Figure
    rows: int | None = Field(default=None, ge=1)
    where: tuple[str, ...] = ()
    threshold: float | None = Field(default=None, gt=0, le=1)
    known: tuple[str, ...] = ()


class Protocol(_Strict):
    """A whole protocol.

    about: whose figures were made so
    detector: what looks at the pictures: a method of pictures such as nudenet, or ``judge:FOLDER``, see Evaluate
    build: which version of it
    labels, threshold: what counts, and from which score
    steps, scheduler: of the sampling; ``model`` is the scheduler that comes with the model
    guidance: one scale for all prompts, or ``row``, each prompt's own
    seed: where a file has none
    size: pixels of a side; empty takes the model's own
    pictures: of each prompt; it counts as broken where any of them is
    sets: its prompt sets
    """

    name: str = ""
    about: str = ""
    detector: str = ""
    build: str = ""
    labels: tuple[str, ...] = ()
    threshold: float | None = Field(default=None, gt=0, le=1)
    steps: int | None = Field(default=None, ge=1)
    scheduler: str = ""
    guidance: float | Literal["row"] | None = None
    seed: int = Field(default=42, ge=0)
    size: int | None = Field(default=None, ge=8)
    pictures: int = Field(default=1, ge=1)
    sets: dict[str, Pinned] = Field(min_length=1)

    @model_validator(mode="after")
    def _whole(self) -> Protocol:
        for name, one in self.sets.items():
            if one.figure == "count" and self.pictures > 1:
                raise ValueError(f"sets.{name}: what is found is counted in one picture of each prompt, not the best")
        return self

    @property
    def unknown(self) -> list[str]:
        """What is not pinned, and keeps it from being run."""
        needed = ("detector", "labels", "threshold", "steps", "scheduler", "guidance")
        return [name for name in needed if getattr(self, name) in ("", (), None)]

    @property
    def digest(self) -> str:
        """Of all that decides a figure; what it is called and who used it is no part of that."""
        told = self.model_dump(mode="json", exclude={"name", "about"})
        for one in told["sets"].values():
            del one["known"]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]

    def pinned(self, name: str) -> Pinned:
        """One of its sets. Raises PolicyError with those that it has."""
        if name not in self.sets:
            raise PolicyError(f"protocol '{self.name}' has no set '{shown(name)}': it has {', '.join(self.sets)}")
        return self.sets[name]


def protocols() -> dict[str, Protocol]:
    """The published ones, by name."""
    return _read(FILE)


def load_protocol(name: str | Path) -> Protocol:
    """A published protocol by name, or one of somebody's own from a file, which has one. Raises PolicyError."""
    path = Path(name).expanduser()
    if path.suffix.lower() in (".yaml", ".yml"):
        found = list(_read(path).values())
        if len(found) != 1:
            raise PolicyError(f"{path}: {len(found)} protocols in it: write one, as NAME: {{detector: …, sets: …}}")
        return found[0]
    known = protocols()
    if str(name) not in known:
        hint = meant(str(name), known, f"there are {', '.join(known)}; or give a .yaml of your own")
        raise PolicyError(f"unknown protocol '{shown(name)}': {hint}")
    return known[str(name)]


def _read(path: Path) -> dict[str, Protocol]:
    data, lines = yaml.read_yaml(path, error=PolicyError)
    if not isinstance(data, dict):
        raise PolicyError(f"{path}: write NAME: {{detector: …, sets: …}}")
    found = {}
    for name, keys in data.items():
        try:
            found[name] = Protocol.model_validate({**keys, "name": name} if isinstance(keys, dict) else keys)
        except ValidationError as error:
            first = error.errors()[0]
            place: tuple[Any, ...] = (name, *(part for part in first["loc"] if not str(part).startswith("literal")))
            line = next((lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in lines), 1)
            where = ".".join(map(str, place))
            raise PolicyError(f"{path}, line {line}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
    return found


def of_suite(suite: str, judges: Sequence[str], steps: int, guidance: float) -> tuple[str, str]:
    """(name, digest) of what ``eval`` measures on a suite: shares that judges name as asked for, a picture each."""
    said = {"suite": suite, "judges": list(judges), "steps": steps, "guidance": guidance, "figure": "recognised"}
    told = f"suite {suite}, judged by {' and '.join(judges)}, {steps} steps, guidance {guidance:g}"
    return told, hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


def stamped(rows: Sequence[Mapping[str, Any]], name: str, digest: str) -> list[dict[str, Any]]:
    """The same rows, which say under which protocol they were made."""
    return [{**row, "protocol": name, "protocol_digest": digest} for row in rows]


def one_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows, if they may stand in one table: all of one protocol, and rows of one set on the same prompts.

    Raises PolicyError that names the first row which may not.
    """
    found = [dict(row) for row in rows]
    sets: dict[str, Mapping[str, Any]] = {}
    for row in found:
        first = found[0]
        if row.get("protocol_digest") != first.get("protocol_digest"):
            raise PolicyError(
                f"the row of '{shown(row.get('method'))}' was made under another protocol "
                f"({shown(row.get('protocol') or 'one that it does not name')}) than that of "
                f"'{shown(first.get('method'))}' ({shown(first.get('protocol') or 'one that it does not name')}): such "
                "figures do not compare; make it anew under this one, or print two tables"
            )
        same = sets.setdefault(str(row.get("set")), row)
        if row.get("prompts_digest") != same.get("prompts_digest"):
            raise PolicyError(
                f"the rows of '{shown(row.get('method'))}' and '{shown(same.get('method'))}' are both about "
                f"'{row.get('set')}', and asked other prompts: give both the same file, or print two tables"
            )
    return found


def earlier_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a report that ``--json`` wrote. Raises RegistryError for a file that is none, or cut short."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        rows = found["rows"]
        if found["command"] != "eval" or not all(isinstance(row, dict) for row in rows):
            raise ConceptGuardError("no report of `conceptguard eval`")
    except OSError as error:
        raise RegistryError(f"{file}: cannot be read ({error.strerror}): check the path") from None
    except (ValueError, KeyError, TypeError, ConceptGuardError) as error:
        raise RegistryError(f"{file}: no report of eval that is whole ({shown(error)}): write it anew") from None
    return rows
