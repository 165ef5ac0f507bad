"""Graphs that nobody thought of: whatever nodes of a core take what a picture can hide in, one behind the other.

Everything is found in the descriptions of the core's own nodes; nothing is listed by hand but what a graph begins with.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Set
from typing import Any

Graph = dict[str, dict[str, Any]]
Link = tuple[str, int, str]  # node, output, type
PLAIN = ("INT", "FLOAT", "STRING", "BOOLEAN")
SMALL = {"width": 64, "height": 64, "steps": 2, "batch_size": 1, "length": 1, "upscale_by": 1.0, "tile_size": 64}


def kind_of(declared: Any) -> str:
    return str.__str__(declared) if isinstance(declared, str) else "COMBO"


def fits(given: str, wanted: str) -> bool:
    """Whether a link of one type may go into an input of another, as the core's validation has it."""
    return bool("*" in (given, wanted) or {*given.split(",")} & {*wanted.split(",")})


class Wirings:
    """The core's nodes, and how to put them into graphs. start: the graph that all begin with; given: its links."""

    def __init__(self, classes: dict[str, Any], start: Graph, given: list[Link]):
        self.start, self.takes, self.gives, self.shows = start, {}, {}, []
        for name, cls in sorted(classes.items()):
            groups = cls.INPUT_TYPES()
            self.takes[name] = {
                key: (kind_of(spec[0]), spec, group == "required")
                for group in ("required", "optional") for key, spec in (groups.get(group) or {}).items()
            }  # fmt: skip
            self.gives[name] = [kind_of(each) for each in getattr(cls, "RETURN_TYPES", ()) or ()]
            if getattr(cls, "OUTPUT_NODE", False):
                self.shows.append(name)
        self._takers: dict[str, list[tuple[str, str]]] = {}
        self.supply: dict[str, Link] = {}
        for link in given:
            self.supply.setdefault(link[2], link)
        self._find_suppliers()

    def _find_suppliers(self) -> None:
        """For every type that can be had at all, a node that gives it, whose own inputs can be had."""
        found = True
        while found:
            found = False
            for name in self.takes:
                wanted = [each for each in self.gives[name] if each not in (*self.supply, *PLAIN, "*", "COMBO")]
                if wanted and self.shows.count(name) == 0 and (graph := self.with_node({}, f"for {wanted[0]}", name)):
                    self.start |= graph
                    for kind in wanted:
                        self.supply.setdefault(kind, (f"for {wanted[0]}", self.gives[name].index(kind), kind))
                    found = True

    def with_node(self, graph: Graph, key: str, name: str, forced: dict[str, Link] | None = None) -> Graph | None:
        """A graph with one node more, which takes ``forced``; None where it needs what is not to be had."""
        inputs: dict[str, Any] = {}
        for take, (kind, spec, required) in self.takes[name].items():
            if take in (forced or {}):
                inputs[take] = list(forced[take][:2])
            elif required:
                value = self._value(take, kind, spec)
                if value is None:
                    return None
                inputs[take] = value
        return {**graph, key: {"class_type": name, "inputs": inputs}}

    def _value(self, take: str, kind: str, spec: Any) -> Any:
        options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
        choices = spec[0] if isinstance(spec[0], list | tuple) else options.get("options", ())
        if kind == "COMBO" and choices:
            return choices[0] if isinstance(choices[0], str | int | float) else None
        if kind in PLAIN:
            empty = {"INT": 1, "FLOAT": 1.0, "STRING": "x", "BOOLEAN": True}[kind]
            value = options.get("default", options.get("min", empty))
            return max(min(value, SMALL[take]), options.get("min", 0)) if take in SMALL and kind != "STRING" else value
        link = next((link for given, link in self.supply.items() if kind != "*" and fits(given, kind)), None)
        return list(link[:2]) if link else ("x" if kind == "*" else None)

    def takers(self, kind: str) -> list[tuple[str, str]]:
        """(node, input) for whatever takes a type; of a node's numbers and texts only the first of each type."""
        if kind not in self._takers:
            self._takers[kind] = [
                (name, take) for name, takes in self.takes.items() for take, (wanted, _, _) in takes.items()
                if wanted != "COMBO" and fits(kind, wanted)
                and (wanted not in PLAIN or take == next(key for key, each in takes.items() if each[0] == wanted))
            ]  # fmt: skip
        return self._takers[kind]

    def reached(self, open_links: list[Link], broken: Set[str] = frozenset()) -> dict[str, tuple[Graph, Link]]:
        """By type: the shortest way on which a value of it can be made of one of ``open_links``, without some nodes."""
        ways: dict[str, tuple[Graph, Link]] = {link[2]: ({}, link) for link in open_links}
        queue = list(ways)
        while queue:
            graph, link = ways[queue.pop(0)]
            for name, take in self.takers(link[2]):
                key = f"way {len(graph)}"
                longer = self.with_node(graph, key, name, {take: link})
                for i, kind in enumerate(self.gives[name] if longer and name not in {*self.shows, *broken} else ()):
                    if kind not in ways and kind not in ("*", "COMBO"):
                        ways[kind] = longer, (key, i, kind)
                        queue.append(kind)
        return ways

    def alone(self, dice: random.Random, ways: Mapping[str, tuple[Graph, Link]]) -> Iterator[tuple[str, Graph]]:
        """Every node at every input that takes a type to which there is a way, with one of the nodes that show each of
        its outputs."""
        for kind, (graph, link) in ways.items():
            for name, take in self.takers(kind):
                longer = self.with_node(graph, "node", name, {take: link})
                if longer is not None and name in self.shows:
                    yield f"{kind} {name}.{take}", longer
                for i, given in enumerate(self.gives[name] if longer else ()):
                    last, into = dice.choice(self.showing(given))
                    whole = self.with_node(longer or {}, "last", last, {into: ("node", i, given)})
                    if whole is not None:
                        yield f"{kind} {name}.{take} {i} {last}.{into}", whole

    def showing(self, kind: str) -> list[tuple[str, str]]:
        """(node, input) for whatever shows a type: one that shows all as text is as likely as one that knows it."""
        found = [each for each in self.takers(kind) if each[0] in self.shows]
        knowing = [each for each in found if self.takes[each[0]][each[1]][0] != "*"]
        return [*knowing, *[each for each in found if each not in knowing] * max(len(knowing), 1)]

    def chain(self, dice: random.Random, open_links: list[Link], longest: int = 5) -> tuple[str, Graph] | None:
        """Up to ``longest`` nodes one behind the other and one that shows; None where the dice find no way on."""
        graph: Graph = {}
        links, names = list(open_links), []
        for i in range(dice.randint(2, longest)):
            link = dice.choice(links[-3:])
            takers = [each for each in self.takers(link[2]) if each[0] not in self.shows]
            if not takers:
                return None
            name, take = dice.choice(takers)
            longer = self.with_node(graph, f"node {i}", name, {take: link})
            if longer is None:
                continue
            graph, names = longer, [*names, f"{name}.{take}"]
            links += [(f"node {i}", j, kind) for j, kind in enumerate(self.gives[name]) if kind != "COMBO"]
        link = links[-1]
        name, take = dice.choice(self.showing(link[2]))
        whole = self.with_node(graph, "last", name, {take: link})
        return (" ".join([*names, name]), whole) if whole and names else None
