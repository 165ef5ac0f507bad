"""Enforcement inside of ComfyUI's executor: the one place where every node's inputs and outputs pass, by value.

A node that would sample gets its MODEL guarded. What every value was made from goes along with it (``taint``). A node
that shows anything, and what any node tells the page, must be made of nothing but pictures that were looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

import execution
from comfy_execution.graph_utils import is_link

import nodes
from conceptguard.errors import ConceptGuardError
from conceptguard.policy import Policy

from .audit import Audit
from .models import guarded, is_model
from .pictures import look_at_outputs, look_at_shown
from .taint import Held, Values, Visit, here, run, visit

OWN = "ConceptGuard"
ONLY_WAITS = {("ConceptGuardReceipt", "after")}  # inputs that a node waits for and does not read


@dataclass(frozen=True)
class Rules:
    """policy: the operator's; looks: whether at images, too; trusted: classes of custom nodes that they answer for"""

    policy: Policy
    looks: bool
    trusted: frozenset[str] = frozenset()


def hook(rules: Rules, audit: Audit) -> None:
    """From now on, for every prompt. Raises AttributeError where the core has no such places."""
    execute, call = execution.execute, execution._async_map_node_over_list
    returns, entry, validate = execution.get_output_from_returns, execution.CacheEntry, execution.validate_prompt

    @wraps(execute)
    async def guarded_execute(
        server: Any, dynprompt: Any, caches: Any, current_item: str, extra_data: Any, executed: Any, prompt_id: Any,
        execution_list: Any, pending_subgraph_results: Any, pending_async_nodes: Any, ui_outputs: Any,
        *rest: Any,
    ) -> Any:  # fmt: skip
        node = _visit_of(dynprompt, current_item)
        token = visit.set(node)
        try:
            for _, outputs in pending_subgraph_results.get(current_item, ()):  # of nodes that it put into the graph
                for link in filter(is_link, outputs or ()):
                    node.births |= execution_list.get_cache(link[0], current_item).outputs[link[1]].births
            result, error, failure = await execute(
                server, dynprompt, caches, current_item, extra_data, executed, prompt_id, execution_list,
                pending_subgraph_results, pending_async_nodes, ui_outputs, *rest,
            )  # fmt: skip
            run.get().shown.update(ui_outputs.get(current_item, {}).get("births", ()))
            if error is not None and not all(birth.leaves for birth in node.births):
                error.update(current_inputs={}, traceback=[])
                if not isinstance(failure, ConceptGuardError):
                    error["exception_message"] = (
                        f"{type(failure).__name__}, in a node that was given what nobody looked at"
                    )
            return result, error, failure
        finally:
            visit.reset(token)

    @wraps(call)
    async def guarded_call(
        prompt: str, node: str, obj: Any, inputs: Any, function: str, *rest: Any, **more: Any
    ) -> Any:
        if visit.get(None) is not None and function == getattr(obj, "FUNCTION", None):
            inputs = _admit(here(), obj, inputs, rules)
        return await call(prompt, node, obj, inputs, function, *rest, **more)

    @wraps(returns)
    def looked_at_returns(values: Any, obj: Any) -> Any:
        outputs, shown, expands = returns(values, obj)
        if rules.looks and not expands and not here().kind.startswith(OWN):  # our nodes draw charts
            look_at_outputs(here(), outputs, rules.policy)
        if shown:
            _check_exit(here(), obj, rules)
        return outputs, shown, expands

    class Entry(entry):  # type: ignore[misc, valid-type]
        """What the core keeps of a node that has run: what it was made from is kept with it."""

        def __new__(cls, ui: Any, outputs: Any, *rest: Any, **more: Any) -> Any:
            if ui is not None:
                ui["births"] = frozenset(here().births)
            own = [value for each in outputs for value in each]
            if any(map(is_model, own)):  # a loader's, maybe
                here().vae = next((v for v in own if getattr(v, "first_stage_model", None) is not None), here().vae)
            return super().__new__(cls, ui, [_values(here(), each) for each in outputs], *rest, **more)

    @wraps(validate)
    async def canonical_validate(prompt_id: Any, prompt: Any, *rest: Any) -> Any:
        before = _links_of(prompt)
        answer = await validate(prompt_id, prompt, *rest)
        if not answer[0] or _links_of(prompt) == before:
            return answer
        details = "a link is written in a way that this server does not take: write [node, output]"
        audit.write(prompt_id, "", "refused", details)
        return False, {"type": "refused", "message": "Refused", "details": details, "extra_info": {}}, [], {}

    execution.execute, execution._async_map_node_over_list = guarded_execute, guarded_call
    execution.get_output_from_returns, execution.CacheEntry = looked_at_returns, Entry
    execution.validate_prompt = canonical_validate


def _visit_of(prompt: Any, node: str) -> Visit:
    """The same one however often the core comes back to a node: for lazy inputs, for what it put into the graph."""
    visits = run.get().visits
    if node not in visits:
        found, parent = prompt.get_node(node), visits.get(prompt.get_parent_node_id(node))
        visits[node] = Visit(run.get(), node, found["class_type"], found["inputs"], parent)
    return visits[node]


def _admit(visit: Visit, obj: Any, inputs: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
    """A node's inputs as it may have them. Raises Held where it may not."""
    if getattr(obj, "API_NODE", False):
        raise Held(f"node '{visit.kind}' draws on another server, which this server's policy cannot guard")
    if visit.parent is not None:
        visit.births |= visit.parent.births
    clips = []
    for name, values in sorted(inputs.items(), key=lambda item: item[0] != "positive"):
        if isinstance(values, Values):
            clips.append(values.clip)
            visit.births |= set() if (visit.kind, name) in ONLY_WAITS else values.births
        elif is_link(visit.links.get(name)) and list(values) not in ([None], [visit.links[name]]):
            raise Held(
                f"input '{name}' of node '{visit.kind}' came from nowhere that this server's policy could follow"
            )
    visit.clip = next((clip for clip in clips if clip is not None), None)
    behind = [inputs[name] for name in sorted(inputs, key=lambda name: name not in ("model", "guider"))]
    visit.vae = next((v.vae for v in behind if getattr(v, "vae", None) is not None), None)
    given = (value for values in inputs.values() for value in values)
    visit.encoder = next((value for value in given if hasattr(value, "cond_stage_model")), visit.clip)
    # A MODEL with no CLIP behind another input computes something of the model; should the node sample, it is locked.
    draws, clip = visit.clip is not None, visit.clip
    admitted = {
        name: [guarded(v, clip, rules.policy, rules.looks) if draws and is_model(v) else v for v in values]
        for name, values in inputs.items()
    }
    if getattr(obj, "OUTPUT_NODE", False):
        _check_exit(visit, obj, rules)
        _check_saves_no_model(visit, inputs.values(), rules)
        if rules.looks:
            admitted = {
                name: [look_at_shown(visit, value, rules.policy) for value in each] for name, each in admitted.items()
            }
    elif not _known(visit.kind, obj, rules) and not all(b.leaves for b in visit.births) and _vae_in(inputs.values()):
        raise Held(
            f"node '{visit.kind}' is given latents and a VAE, so it could show what nobody looked at: use ComfyUI's "
            "own VAE Decode (an operator can vouch for the node in CONCEPTGUARD_TRUST)"
        )
    return admitted


def _check_exit(visit: Visit, obj: Any, rules: Rules) -> None:
    """Raises Held where a node shows what may not leave. Trusted nodes show what they like: an operator said so."""
    if not (rules.looks and visit.births) or visit.kind in rules.trusted:
        return
    if not _known(visit.kind, obj, rules):
        raise Held(
            f"node '{visit.kind}' would give out a picture in a way of its own: use ComfyUI's own nodes (an operator "
            "can vouch for it in CONCEPTGUARD_TRUST)"
        )
    if not all(birth.leaves for birth in visit.births):
        raise Held(
            f"node '{visit.kind}' would give out {', '.join(_types(visit))}, made of what this server's policy did not "
            "look at: decode it with ComfyUI's own VAE Decode, and give images"
        )


def _check_saves_no_model(visit: Visit, inputs: Iterable[Any], rules: Rules) -> None:
    """Raises Held where a node would write down a model: with a guard's terms merged away, and loaded again as if it
    were the operator's, nobody could tell it from a fine-tuned one."""
    if visit.kind.startswith(OWN) or visit.kind in rules.trusted:
        return
    marks = ("cond_stage_model", "first_stage_model")
    if any(is_model(value) or any(hasattr(value, mark) for mark in marks) for values in inputs for value in values):
        raise Held(
            f"node '{visit.kind}' would save a model on this server, where it could be loaded with what guards do "
            "taken off (an operator can vouch for the node in CONCEPTGUARD_TRUST)"
        )


def _known(kind: str, obj: Any, rules: Rules) -> bool:
    """Whether a node is ComfyUI's, ours, or one that the operator answers for."""
    place = str(getattr(obj, "RELATIVE_PYTHON_MODULE", None) or "nodes")
    return not place.startswith("custom_nodes") or kind.startswith(OWN) or kind in rules.trusted


def _types(visit: Visit) -> Iterable[str]:
    """Of the inputs that are linked."""
    found = dict.fromkeys(
        nodes.NODE_CLASS_MAPPINGS[source.kind].RETURN_TYPES[int(link[1])]
        for link in visit.links.values()
        if is_link(link) and (source := visit.run.visits.get(link[0])) is not None
    )
    return [str.__str__(kind) if isinstance(kind, str) else "COMBO" for kind in found] or ["values"]


def _vae_in(inputs: Iterable[Any]) -> bool:
    return any(hasattr(value, "first_stage_model") for values in inputs for value in values)


def _values(visit: Visit, values: Any) -> Values:
    """One output with what it was made from. Models are no words of anybody's: they have no CLIP."""
    births = {birth for value in values for birth in visit.births_of(value)}
    models = any(is_model(value) or hasattr(value, "patcher") for value in values)
    return Values(values, births, None if models else visit.encoder, visit.vae)


def _links_of(prompt: Any) -> dict[tuple[str, str], Any]:
    """Every link in a graph as it was posted; what makes no sense is the core's to say."""
    if not isinstance(prompt, dict):
        return {}
    inputs = {key: node.get("inputs") for key, node in prompt.items() if isinstance(node, dict)}
    return {
        (key, name): tuple(value)
        for key, named in inputs.items() if isinstance(named, dict)
        for name, value in named.items() if is_link(value)
    }  # fmt: skip
