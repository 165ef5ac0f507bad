"""A prompt's graph with an operator's guards in it, or the reason why it cannot have them.

Nothing here knows ComfyUI but by the descriptions of nodes that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Graph = dict[str, dict[str, Any]]
Link = tuple[str, int]
GUARD, CHECK, REFUSED = "ConceptGuardEnforcedModel", "ConceptGuardEnforcedImage", "ConceptGuardRefused"
OURS, OWN = (GUARD, CHECK), "ConceptGuard"
# What an output node may be given besides images, where images are looked at: none of it shows what was drawn.
HARMLESS = {"STRING", "INT", "FLOAT", "BOOLEAN", "COMBO", "MASK", "AUDIO", "SIGMAS", "NOISE", "SAMPLER", "CONDITIONING"}


class Uncoverable(Exception):
    """Why a graph cannot be guarded, for whoever sent it."""


@dataclass(frozen=True)
class Node:
    """What is known of a node class.

    takes: types by input, "*" for any; gives: types of the outputs; shows: whether it saves, previews or sends
    core: whether it is ComfyUI's own; remote: whether it sends the work to somebody else's server
    """

    takes: Mapping[str, str]
    gives: tuple[str, ...]
    shows: bool = False
    core: bool = True
    remote: bool = False


Describe = Callable[[str], Node | None]


def enforce(graph: Graph, describe: Describe, looks: bool, trusted: frozenset[str] = frozenset()) -> Graph:
    """The graph with a guard before every sampler and, if the policy ``looks``, a check before every image is shown.

    trusted: classes of custom nodes that an operator answers for. Raises Uncoverable.
    """
    changed = _without_ours(graph)
    for key in list(changed):
        kind = changed[key].get("class_type", "")
        node = describe(kind)
        if node is None:
            continue  # unknown: ComfyUI's own validation says so
        if node.remote:
            raise Uncoverable(f"node '{kind}' draws on another server, which this server's policy cannot guard")
        _guard_models(changed, key, node, describe)
        if looks:
            _check_images(changed, key, node, describe, kind in trusted or kind.startswith(OWN))
    return changed


def _without_ours(graph: Graph) -> Graph:
    """A copy without guards that an earlier rewriting, or a client, put into it: they are placed anew."""
    instead = {
        key: next(iter(dict(_links(node)).values()), None)
        for key, node in graph.items()
        if node.get("class_type") in OURS
    }
    copy: Graph = {}
    for key, node in graph.items():
        if key in instead:
            continue
        inputs = dict(node.get("inputs") or {})
        for name, link in list(_links(node)):
            for _ in instead:
                link = instead.get(link[0], link) or link
            inputs[name] = list(link)
        copy[key] = {**node, "inputs": inputs}
    return copy


def _guard_models(graph: Graph, key: str, node: Node, describe: Describe) -> None:
    """A guard on every MODEL that goes into a node that may sample with it."""
    if "MODEL" in node.gives and not any("CONDITIONING" in kind.split(",") for kind in node.takes.values()):
        return  # changes models and hands them on: whoever samples is guarded itself
    for name, link in _links(graph[key]):
        if _type_of(graph, link, describe) != "MODEL":
            continue
        clip = clip_for(graph, key, describe)
        if clip is None:
            continue  # computes something of the model, like a schedule; should it sample, the model is locked
        graph[key]["inputs"][name] = _insert(graph, GUARD, {"model": list(link), "clip": list(clip)})


def clip_for(graph: Graph, key: str, describe: Describe) -> Link | None:
    """The CLIP that encoded what a node is conditioned on: the nearest one upstream, positive inputs first."""
    seen, queue = {key}, [key]
    while queue:
        at = queue.pop(0)
        links = sorted(_links(graph[at]), key=lambda pair: pair[0] != "positive")
        if at != key:
            for _, link in links:
                if _type_of(graph, link, describe) == "CLIP":
                    return link
        for _, link in links:
            if link[0] in graph and link[0] not in seen and _type_of(graph, link, describe) not in ("MODEL", "VAE"):
                seen.add(link[0])
                queue.append(link[0])
    return None


def _check_images(graph: Graph, key: str, node: Node, describe: Describe, trusted: bool) -> None:
    """A check on every image that is shown, or handed to code that is not ComfyUI's own; nothing else of a picture."""
    kind = graph[key]["class_type"]
    if not node.shows and (node.core or trusted):
        return
    types = {name: _type_of(graph, link, describe) for name, link in _links(graph[key])}
    if not node.core and not trusted and {"LATENT", "VAE"} <= set(types.values()):
        raise Uncoverable(
            f"node '{kind}' is given latents and a VAE, so it could show what nobody looked at: use ComfyUI's own VAE "
            "Decode (an operator can vouch for the node in CONCEPTGUARD_TRUST)"
        )
    for name, link in _links(graph[key]):
        if types[name] == "IMAGE":
            graph[key]["inputs"][name] = _insert(graph, CHECK, {"image": list(link)})
        elif node.shows and types[name] not in HARMLESS and not trusted:
            raise Uncoverable(
                f"node '{kind}' would give out {types[name]}, which this server's policy cannot look at: give images"
            )


def _insert(graph: Graph, kind: str, inputs: dict[str, Any]) -> list[Any]:
    """A link to a node of ours with these inputs; the same one for the same inputs, so that it runs once."""
    name = f"{kind}-" + "-".join(f"{node}-{index}" for node, index in inputs.values())
    graph[name] = {"class_type": kind, "inputs": inputs, "_meta": {"title": "Operator's policy"}}
    return [name, 0]


def _links(node: dict[str, Any]) -> Iterator[tuple[str, Link]]:
    for name, value in list(node["inputs"].items() if "inputs" in node else ()):
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int):
            yield name, (value[0], value[1])


def _type_of(graph: Graph, link: Link, describe: Describe) -> str:
    """What a link carries, found behind nodes that hand on whatever they are given; "unknown" if it cannot be told."""
    for _ in range(len(graph) + 1):
        source, index = link
        node = describe(graph.get(source, {}).get("class_type", ""))
        if node is None or index >= len(node.gives):
            return "unknown"
        if node.gives[index] != "*":
            return node.gives[index]
        through = [each for _, each in _links(graph[source])]
        if len(through) != 1:
            return "unknown"
        link = through[0]
    return "unknown"
