"""What guards would do about prompts: of one step that is drawn, or one token that is said, and thrown away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .progress import progress

if TYPE_CHECKING:
    from ..host import LanguageModel
    from ..policy import Policy

Row = dict[str, Any]


def of_pictures(pipe: Any, rules: Policy, texts: list[str]) -> list[Row]:
    """A row for every prompt and guard: how far its gate opens, because of which words, and what it does then."""
    import torch

    from ..errors import Refused
    from ..sessions.attach import attach
    from ..sessions.explain import explain

    rows: list[Row] = []
    flagging = rules.model_copy(update={"on_violation": "flag"})  # what one step draws is no picture to judge
    with attach(pipe, flagging) as session, progress("prompts", len(texts)) as tick:
        for text in texts:
            words = {one.guard: one.words for one in explain(session, text)} if session.methods_with_terms else {}
            seed = torch.Generator("cpu").manual_seed(0)
            refused = ""
            try:
                pipe([text], num_inference_steps=1, generator=seed, output_type="pt")
            except Refused as why:
                refused = str(why)
            record = session.receipt
            towards = [i for i, row in enumerate(record.rows) if row.branch == "conditional"]
            for method, act in zip(session.methods, record.acts):
                gate = max((act.gates[i] for i in towards if i < len(act.gates)), default=0.0)
                does = "; ".join(act.notes) or _does(method, gate)
                rows.append(_row(text, act.guard, round(gate, 4), words.get(act.guard, []), does))
            rows += [_row(text, rules.name, None, [], f"refuses: {refused}")] if refused else []
            tick(1)
    return rows


def of_text(pair: LanguageModel, rules: Policy, texts: list[str]) -> list[Row]:
    """A row for every prompt and guard: how it reads the prompt, and what it does to the first token."""
    from ..errors import Refused
    from ..sessions.attach import attach
    from .prompts import Ask
    from .speak import Asked, say

    rows: list[Row] = []
    with attach(pair, rules) as session:
        for text in texts:
            refused = ""
            try:
                say(pair, Ask(text), Asked(tokens=1), 0)
            except Refused as why:
                refused = str(why)
            for act in session.receipt.acts:
                told = [f"reads it as {read.label} {read.score or 0:.2f}" for read in act.readings]
                told += [f"{t.change} {', '.join(map(repr, t.tokens))} as the first token" for t in act.touched]
                rows.append(_row(text, act.guard, None, [], "; ".join([*told, *act.notes]) or "reads along"))
            rows += [_row(text, rules.name, None, [], f"refuses: {refused}")] if refused else []
    return rows


def _row(text: str, guard: str, gate: float | None, words: list[str], does: str) -> Row:
    acts = bool(gate or does) and not does.startswith("stands aside")
    return {"prompt": text, "guard": guard, "gate": gate, "because": ", ".join(words), "does": does, "acts": acts}


def _does(method: Any, gate: float) -> str:
    from .. import plugins

    hooks = plugins.hooks(type(method))
    if not gate:
        return "looks at the finished picture" if "check_image" in hooks else ""
    if "predict_noise" in hooks:
        return "changes what the steps predict"
    if "condition" in hooks:
        return "changes what the steps see"
    return "adds its terms to the layers"
