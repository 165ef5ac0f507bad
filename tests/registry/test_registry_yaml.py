"""The strict YAML reader."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from conceptguard.errors import ArtifactError, ConceptGuardError, PolicyError
from conceptguard.files import yaml

GOOD = """\
name: school
on: no
guards:
  - {method: spm, artifact: a/b/c}
  - method: safree
    concept:
      prompts: [pistol, "1e5", 12:30, 2024-01-01]
numbers: [1, -2, 1.5, 1e-5, .5, 010, 1_000, 0x10, .inf]
empty:
"""


def test_plain_data_and_lines() -> None:
    data, lines = yaml.parse(GOOD)
    assert data["name"] == "school" and data["on"] == "no" and data["empty"] is None
    assert data["guards"][1]["concept"]["prompts"] == ["pistol", "1e5", "12:30", "2024-01-01"]
    assert data["numbers"] == [1, -2, 1.5, 1e-5, 0.5, 10, "1_000", "0x10", ".inf"]
    assert lines[("guards", 0, "artifact")] == 4 and lines[("guards", 1, "concept", "prompts", 0)] == 7
    assert lines[("guards", 1, "concept")] == 6 and lines[("numbers",)] == 8 and lines[()] == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &x 1\nb: *x", "line 1: anchors"),
        ("a: *x", "line 1: anchors"),
        ("x: 1\na: !!python/object/apply:os.system [ls]", "line 2: the tag"),
        ("a: !!str 1", "tag"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' is given twice"),
        ("<<: {a: 1}", "merge"),
        ("a: 1\n---\nb: 2", "line 2: a second document"),
        ("? [a, b]\n: 1", "key must be plain text"),
        ("[" * 40 + "]" * 40, "nested deeper"),
        ("a: b: c", "line 1: not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("%TAG ! tag:x,2000:\n---\na: !y 1", "tag"),
        ("a: " + "x" * yaml.MAX_BYTES, "larger than"),
    ],
)
def test_everything_else_is_refused(text: str, says: str) -> None:
    with pytest.raises(ArtifactError, match=says):
        yaml.parse(text, error=ArtifactError)


def test_bomb_costs_nothing() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(ConceptGuardError, match="anchors"):
        yaml.parse("\n".join(lines))


def test_files(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes("a: größe".encode())
    assert yaml.read_yaml(tmp_path / "p.yaml")[0] == {"a": "größe"}
    (tmp_path / "p.yaml").write_bytes("a: größe".encode("latin-1"))
    with pytest.raises(PolicyError, match="not UTF-8"):
        yaml.read_yaml(tmp_path / "p.yaml")
    with pytest.raises(PolicyError, match="cannot be read"):
        yaml.read_yaml(tmp_path / "none.yaml")


TEXTS = [
    "1e5",
    "010",
    "no",
    "null",
    "~",
    "",
    " ",
    "a: b",
    "# x",
    "- x",
    "&x",
    "*x",
    "!t",
    "'",
    '"',
    "é\n\tz",
    "1.0",
    "\x85",
    "=",
    "<<",
]


def _random_data(chance: random.Random, depth: int = 0) -> object:
    kind = chance.randrange(7 if depth < 4 else 5)
    if kind == 0:
        return chance.choice(TEXTS)
    if kind == 1:
        return chance.choice([True, False, None])
    if kind == 2:
        return chance.randrange(-(10**9), 10**9)
    if kind == 3:
        return chance.uniform(-1, 1) * 10.0 ** chance.randrange(-300, 300)
    if kind == 4:
        return "".join(chr(chance.choice([9, 10, 32, 35, 58, 65, 233, 0x1F600])) for _ in range(chance.randrange(6)))
    if kind == 5:
        return [_random_data(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {str(_random_data(chance, 9)): _random_data(chance, depth + 1) for _ in range(chance.randrange(4))}


def test_what_is_written_is_read_back() -> None:
    chance = random.Random(0)
    for _ in range(300):
        data = {"x": _random_data(chance)}
        assert yaml.parse(yaml.dump(data))[0] == data
    assert math.isclose(yaml.parse(yaml.dump({"x": 1e-05}))[0]["x"], 1e-05)
    with pytest.raises(ValueError, match="finite"):
        yaml.dump({"x": math.nan})
