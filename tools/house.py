"""The house, drawn from the imports: which rooms there are, what each is for, what a line of code in it may touch.

A room is a folder of modules (under hosts/ each framework's own), or a module that stands by itself at the top of
``conceptguard``. Every import counts, wherever it stands: at the top, inside a function, or for type annotations only.
A room stands on the floor above the highest room that it imports; rooms that import each other, which a house should
not have, share a floor and are drawn in red. An arrow that follows from others is left out: the table has all.

    python -m tools.house > house.svg
    python -m tools.house --table
"""

from __future__ import annotations

import argparse
import ast
import html
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:  # mypy brings it where Python has none
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGES = {"conceptguard": "conceptguard", "conceptguard_plugins": "plugins", "conceptguard_nodes": "nodes"}
SPLIT = ("conceptguard.hosts",)  # folders whose folders are rooms of their own


@dataclass
class Room:
    """One room. uses: other rooms, and by how many imports; libraries: what it imports from outside the house."""

    name: str
    about: str = ""
    modules: list[str] = field(default_factory=list)
    uses: dict[str, int] = field(default_factory=dict)
    libraries: set[str] = field(default_factory=set)
    floor: int = 0
    tangled: frozenset[str] = frozenset()  # rooms that it imports and that import it, by whatever way


def modules() -> dict[str, Path]:
    """Every module of the house by its dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(p for p in parts if p != "__init__")])] = path
    return found


def room_of(module: str, known: Mapping[str, Path]) -> str:
    """The room that a module is in."""
    parts = module.split(".")
    if parts[0] == "conceptguard_nodes":  # one pack
        return parts[0]
    depth = 3 if any(module.startswith(f"{split}.") for split in SPLIT) else 2
    name = ".".join(parts[:depth])
    folder = name in known and known[name].name == "__init__.py"
    if folder or (parts[0] == "conceptguard" and depth == 2):
        return name
    return ".".join(parts[: depth - 1])


def imports(module: str, path: Path) -> Iterator[str]:
    """The dotted names that a module imports, relative ones resolved."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def rooms() -> dict[str, Room]:
    """The rooms with what they import, and their floors."""
    known = modules()
    found: dict[str, Room] = {}
    for module, path in known.items():
        room = found.setdefault(room_of(module, known), Room(room_of(module, known)))
        room.modules.append(module)
        if module == room.name:
            room.about = (
                (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n\n")[0].replace("\n", " ")
            )
        for name in imports(module, path):
            inner = _inside(name, known)
            if inner is None:
                if name.split(".")[0] not in (*sys.stdlib_module_names, "__future__"):
                    room.libraries.add(name.split(".")[0])
            elif room_of(inner, known) != room.name:
                target = room_of(inner, known)
                room.uses[target] = room.uses.get(target, 0) + 1
    reached = {other for room in found.values() for other in room.uses}
    found = {name: room for name, room in found.items() if room.uses or room.libraries or name in reached}
    _floors(found)  # without folders that only hold others
    return found


def _inside(name: str, known: Mapping[str, Path]) -> str | None:
    """The module of the house that a dotted name is in, or None."""
    parts = name.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((name for name in names if name in known), None)


def _floors(found: dict[str, Room]) -> None:
    """Floors from below; rooms that reach each other share one."""

    def reached(name: str) -> set[str]:
        seen: set[str] = set()
        todo = [name]
        while todo:
            for other in found[todo.pop()].uses:
                if other not in seen:
                    seen.add(other)
                    todo.append(other)
        return seen

    reach = {name: reached(name) for name in found}
    for name, room in found.items():
        room.tangled = frozenset(other for other in reach[name] if other != name and name in reach[other])
    # A room that is in no ring stands above all that it reaches; a ring as a whole does.
    order = sorted(found, key=lambda name: len(reach[name] - {name}))
    for name in order:
        below = [found[other].floor for other in reach[name] if other != name and other not in found[name].tangled]
        floor = max(below, default=-1) + 1
        for other in (name, *found[name].tangled):
            found[other].floor = max(found[other].floor, floor)


LINE, GAP, BOX, WIDTH = 58, 14, 34, 960


def rests_on(room: Room, found: Mapping[str, Room]) -> set[str]:
    """The rooms that a room imports and that no other room on the way imports: all else follows from these arrows."""
    seen: set[str] = set()
    todo = [other for other in room.uses if other not in room.tangled]
    while todo:
        below = found[todo.pop()].uses
        todo += [name for name in below if name not in seen]
        seen.update(below)
    return {other for other in room.uses if other in room.tangled or other not in seen}


def drawing() -> str:
    """The house as SVG inside of HTML, floor above floor, an arrow downwards for what a room rests on."""
    found = rooms()
    places: dict[str, tuple[float, float, float]] = {}  # x, y, width of each box
    below = {name: rests_on(room, found) for name, room in found.items()}
    parts: list[str] = []
    y = 10.0
    for floor in range(max(room.floor for room in found.values()), -1, -1):
        here = [room for room in found.values() if room.floor == floor]
        middle = {room.name: _middle([places[a] for a in places if room.name in below[a]]) for room in here}
        lines = _rows(sorted(here, key=lambda room: (middle[room.name], room.name)))
        parts.append(f'<rect x="4" y="{y:.0f}" width="{WIDTH - 8}" height="{len(lines) * LINE}" rx="6" class="floor"/>')
        parts.append(f'<text x="16" y="{y + 14:.0f}" class="number">{floor}</text>')
        for line in lines:
            for room, x in zip(line, _abreast(line, middle)):
                places[room.name] = (x, y + (LINE - BOX) / 2, _width(room))
            y += LINE
        y += GAP
    arrows = [_arrow(places[a], places[b], b in found[a].tangled) for a in found for b in sorted(below[a])]
    boxes = [_box(room, places[room.name]) for room in found.values()]
    style = (
        ".house .floor{fill:none;stroke:currentColor;stroke-opacity:.15}"
        ".house .room rect{fill:var(--md-default-bg-color,#fff);stroke:currentColor}"
        ".house .room.ring rect{stroke:#c62828}"
        ".house text{font-family:ui-monospace,monospace;font-size:12px;fill:currentColor;stroke:none}"
        ".house .number{opacity:.5;font-size:10px}.house .few{font-size:9px;opacity:.6}"
        ".house .arrow{fill:none;stroke:currentColor;stroke-opacity:.45}.house .arrow.ring{stroke:#c62828}"
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0f}" role="img" '
        f'aria-label="Rooms and what they rest on"><style>{style}</style>{"".join(parts)}{"".join(arrows)}'
        f"{''.join(boxes)}</svg>"
    )
    return f'<div class="house">{svg}</div>'


def _middle(above: list[tuple[float, float, float]]) -> float:
    """Where a room would best stand: below the middle of those that rest on it."""
    return sum(x + width / 2 for x, _, width in above) / len(above) if above else WIDTH / 2


def _abreast(line: list[Room], middle: Mapping[str, float]) -> list[float]:
    """Left edges of the boxes of a line, as near below their middles as they fit beside each other."""
    found: list[float] = []
    edge = 40.0
    for room in line:
        found.append(max(edge, middle[room.name] - _width(room) / 2))
        edge = found[-1] + _width(room) + GAP
    beyond = max(0.0, edge - GAP - (WIDTH - 16))
    for n in range(len(found) - 1, -1, -1):  # pushed back from the right edge, and each other
        limit = WIDTH - 16 if n == len(found) - 1 else found[n + 1] - GAP
        found[n] = min(found[n], limit - _width(line[n])) if beyond else found[n]
    return found


def short(name: str) -> str:
    """A room's name as people call it: its folder."""
    package, _, rest = name.partition(".")
    return {"conceptguard": rest or "conceptguard", "conceptguard_plugins": f"plugins/{rest}",
            "conceptguard_nodes": f"nodes/{rest}"}[package].replace(".", "/")  # fmt: skip


def _width(room: Room) -> float:
    return max(18 + 7.3 * len(short(room.name)), 76)


def _rows(here: list[Room]) -> list[list[Room]]:
    lines: list[list[Room]] = [[]]
    for room in here:
        if lines[-1] and sum(_width(r) + GAP for r in lines[-1]) + _width(room) > WIDTH - 60:
            lines.append([])
        lines[-1].append(room)
    return lines


def _box(room: Room, place: tuple[float, float, float]) -> str:
    x, y, width = place
    uses = ", ".join(map(short, sorted(room.uses))) or "nothing"
    told = html.escape(f"{short(room.name)}: {room.about}\nimports {uses}")
    middle, name = x + width / 2, short(room.name)
    lines = [(y + 21, "", name)]
    if len(room.modules) > 1:
        lines = [(y + 15, "", name), (y + 28, ' class="few"', f"{len(room.modules)} modules")]
    texts = "".join(
        f'<text x="{middle:.0f}" y="{at:.0f}" text-anchor="middle"{kind}>{text}</text>' for at, kind, text in lines
    )
    return (
        f'<g class="room{" ring" if room.tangled else ""}"><title>{told}</title>'
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{BOX}" rx="4"/>{texts}</g>'
    )


def _arrow(above: tuple[float, float, float], below: tuple[float, float, float], ring: bool) -> str:
    x, y = above[0] + above[2] / 2, above[1] + BOX
    to_x, to_y = below[0] + below[2] / 2, below[1]
    bend = max(24.0, abs(to_y - y) / 2)
    curve = f"M{x:.0f} {y:.0f}C{x:.0f} {y + bend:.0f} {to_x:.0f} {to_y - bend:.0f} {to_x:.0f} {to_y:.0f}"
    return f'<path class="arrow{" ring" if ring else ""}" d="{curve}"/>'


def table() -> str:
    """Every room, from the top floor down: what it is for, and what its code touches."""
    lines = ["| floor | room | what it is for | rooms that it imports | libraries |", "|---|---|---|---|---|"]
    for room in sorted(rooms().values(), key=lambda room: (-room.floor, room.name)):
        uses = ", ".join(f"`{short(name)}`" for name in sorted(room.uses)) or "none"
        libraries = ", ".join(f"`{name}`" for name in sorted(room.libraries)) or "none"
        about = room.about.replace("|", "\\|").replace("``", "`")
        lines.append(f"| {room.floor} | `{short(room.name)}` | {about} | {uses} | {libraries} |")
    return "\n".join(lines)


def contracts() -> str:
    """The import contracts of pyproject.toml, in words."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")).get("tool", {})
    found: list[dict[str, Any]] = tool.get("importlinter", {}).get("contracts", [])
    if not found:
        return "_No contracts stand in `pyproject.toml` yet._"
    parts = []
    for contract in found:
        parts.append(f"**{contract.get('name', contract.get('id', contract.get('type')))}** ({contract.get('type')})")
        items = [f"`{key}`: {_listed(value)}" for key, value in contract.items() if key not in ("name", "id", "type")]
        parts.append("\n".join(f"- {item}" for item in items))
    return "\n\n".join(parts)


def _listed(value: Any) -> str:
    return ", ".join(f"`{one}`" for one in value) if isinstance(value, list) else f"`{value}`"


def main() -> None:
    """The commands of the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--table", action="store_true", help="the rooms as a table of Markdown")
    print(
        table() if parser.parse_args().table else drawing().removeprefix('<div class="house">').removesuffix("</div>")
    )


if __name__ == "__main__":
    main()
