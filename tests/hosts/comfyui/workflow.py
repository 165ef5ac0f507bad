"""A workflow as the page saves it, as the graph that the page would post."""

from __future__ import annotations

from typing import Any


def to_graph(workflow: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """known: /object_info. Raises AssertionError for a node, an input or a value that the server does not know."""
    links = {link[0]: link for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        kind = node["type"]
        if kind in ("Note", "MarkdownNote"):
            continue
        assert kind in known, f"no node {kind}"
        wired = {i["name"]: links[i["link"]] for i in node.get("inputs", ()) if i.get("link") is not None}
        values, inputs = list(node.get("widgets_values", ())), {}
        for name, spec in _inputs(known[kind]):
            if _is_widget(spec):
                value = values.pop(0)
                options = spec[0] if isinstance(spec[0], list) else (spec[1] if len(spec) > 1 else {}).get("options")
                assert name in wired or options is None or value in options, f"{kind}.{name}: no {value!r}"
                inputs[name] = value
                if len(spec) > 1 and spec[1].get("control_after_generate"):
                    values.pop(0)
            if name in wired:
                inputs[name] = [str(wired[name][1]), wired[name][2]]
        assert not values and set(wired) <= set(inputs), f"{kind}: {values or set(wired) - set(inputs)} fits no input"
        graph[str(node["id"])] = {"class_type": kind, "inputs": inputs}
    return graph


def _inputs(info: dict[str, Any]) -> list[tuple[str, Any]]:
    return [pair for group in ("required", "optional") for pair in info["input"].get(group, {}).items()]


def _is_widget(spec: Any) -> bool:
    return isinstance(spec[0], list) or spec[0] in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
