"""The prompt suite: objects, styles and captions, read from registry/suites/emoji-sd.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

SUITE = Path(__file__).resolve().parents[2] / "suites" / "emoji-sd.yaml"


@dataclass(frozen=True)
class Object:
    name: str
    group: str
    thing: str  # with its article: "a dog", "some milk"
    icon: str
    icons: dict[str, str]
    synonyms: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()

    def icon_in(self, pack: str) -> str:
        return self.icons.get(pack, self.icon)


@dataclass(frozen=True)
class Suite:
    base: str
    styles: dict[str, str]  # name -> pack
    objects: tuple[Object, ...]
    concepts: tuple[str, ...]
    held_out: frozenset[tuple[str, str]]  # (object, style)
    train_templates: tuple[str, ...]
    train_templates_plain: tuple[str, ...]
    judge_templates: tuple[str, ...]
    judge_templates_plain: tuple[str, ...]

    def pairs(self, held_out: bool) -> list[tuple[Object, str]]:
        """All object x style pairs that were trained on, or all that were held out."""
        return [(o, s) for o in self.objects for s in self.styles if ((o.name, s) in self.held_out) == held_out]


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def load_suite(path: Path = SUITE) -> Suite:
    raw = yaml.safe_load(path.read_text())
    objects = tuple(
        Object(
            name=o["name"],
            group=o["group"],
            thing=o.get("thing", with_article(o["name"])),
            icon=o["icon"],
            icons=o.get("icons", {}),
            synonyms=tuple(o.get("synonyms", ())),
            phrases=tuple(o.get("phrases", ())),
            neighbours=tuple(o.get("neighbours", ())),
        )
        for o in raw["objects"]
    )
    return Suite(
        base=raw["base"],
        styles={name: s["pack"] for name, s in raw["styles"].items()},
        objects=objects,
        concepts=tuple(raw["concepts"]),
        held_out=frozenset((o, s) for o, s in raw["held_out"]),
        train_templates=tuple(raw["train_templates"]),
        train_templates_plain=tuple(raw["train_templates_plain"]),
        judge_templates=tuple(raw["judge_templates"]),
        judge_templates_plain=tuple(raw["judge_templates_plain"]),
    )
