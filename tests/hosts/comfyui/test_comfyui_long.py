"""Prompts longer than a text encoder's window, which ComfyUI encodes window by window: each window is guarded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sampling import encode, sample
from torch import Tensor

from conceptguard import attach

SMOKING, APPLE = "a man smoking a cigarette, noto style", "a red apple, noto style"
FILLER = "a red apple " * 25  # 75 tokens: one window
CONCEPT = {"name": "cigarette", "prompts": ["cigarette", "a man smoking a cigarette"]}
SAFREE = {"method": "safree", "concept": CONCEPT, "positions": "all", "schedule": False}
GUARDS = {
    "safree": SAFREE,
    "reattention": {**SAFREE, "reattention": True},
    "safree negative": {**SAFREE, "negative_prompt": True},
    "itd": {"method": "itd", "artifact": "emoji-sd/itd/ten-objects", "concept": CONCEPT, "classify": False},
    "magicmix": {"method": "magicmix", "concept": {**CONCEPT, "replacement": "flower"}},
    "magicmix negative": {"method": "magicmix", "concept": CONCEPT, "negative": True},
    "astar": {"method": "astar", "concept": CONCEPT},
}
LATE, MIDDLE, HARMLESS = FILLER + SMOKING, FILLER + SMOKING + " " + FILLER, FILLER + APPLE


@pytest.fixture(scope="module")
def conds(bare: Any) -> Any:
    return {text: bare.encode(text) for text in (LATE, MIDDLE, HARMLESS, SMOKING, APPLE, "")}


def guarded(parts: Any, guard: dict[str, Any]) -> tuple[Any, Any]:
    session = attach((parts.model, parts.clip), {"guards": [guard]})
    session.host.candidates = lambda: [LATE, MIDDLE, HARMLESS, SMOKING, APPLE, ""]
    return session.host.guarded(), session


def contexts(parts: Any, model: Any, *conds: Any, **options: Any) -> list[Tensor]:
    """What the diffusion model's cross-attention is given in each call, [rows, tokens, width]."""
    found: list[Tensor] = []
    layer = next(m for n, m in parts.model.model.diffusion_model.named_modules() if n.endswith("attn2.to_k"))
    handle = layer.register_forward_hook(lambda module, args, output: found.append(args[0].clone()))
    try:
        sample(model, *conds, **options)
    finally:
        handle.remove()
    return found


@pytest.mark.parametrize("text", [LATE, MIDDLE])
def test_safree_changes_a_window_as_it_changes_that_text_alone(text: str, parts: Any, conds: Any) -> None:
    model, session = guarded(parts, SAFREE)
    own, short = conds[text][0][0], conds[SMOKING][0][0]
    (alone, *_) = contexts(parts, model, conds[SMOKING], conds[""], steps=1)
    (whole, *_) = contexts(parts, model, conds[text], conds[""], steps=1)
    assert own.shape[1] in (154, 231)
    assert torch.equal(own[:, 77:154], short) or text is MIDDLE, "the second window is the short prompt"
    row = whole[-1:]
    if text is LATE:
        assert (row[:, 77:154] - alone[-1:]).abs().max() < 1e-5
    changed = [(a - b).abs().max() > 0.1 for a, b in zip(row.split(77, 1), own.split(77, 1))]
    assert changed[1] and not any(changed[:1] + changed[2:]), "the window that has the concept, and no other"
    assert "'smoking'" in str(session.receipt) and session.receipt.acts[0].gates[-1] == 1.0


@pytest.mark.parametrize("name", GUARDS)
def test_every_guard_of_prompts(name: str, parts: Any, conds: Any, bare: Any) -> None:
    model, session = guarded(parts, GUARDS[name])
    for text in (LATE, MIDDLE):
        out = sample(model, conds[text], conds[""], steps=6)
        assert session.receipt.opened and len(session.receipt.acts[0].gates) == 2
        assert not torch.equal(out, bare.sample(text, steps=6))
    same = sample(model, conds[HARMLESS], conds[""])
    assert torch.equal(same, bare.sample(HARMLESS)) and not session.receipt.opened


def test_gates_of_windows() -> None:
    """A row's gate goes to the windows that open it by themselves; to all of them where it takes several to see it."""
    from conceptguard.hosts.comfyui.windows import gates_by_window
    from conceptguard.receipt import Act

    one, two = Act("one", 1.0, gates=[0.5, 1.0]), Act("two", 1.0, gates=[0.5, 0.0])
    with gates_by_window([(one, [0.0, 0.9, 0.7]), (two, [0.0, 0.0, 0.0])], [0, 1, 0]):
        assert one.gates == [0.0, 1.0, 0.5] and two.gates == [0.5, 0.0, 0.5]
        one.gates[1] = 0.0
    assert one.gates == [0.5, 0.0] and two.gates == [0.5, 0.0]


def test_prompts_of_several_lengths_in_one_call(parts: Any, conds: Any) -> None:
    """ComfyUI repeats the shorter ones; each is changed as alone."""
    model, session = guarded(parts, SAFREE)
    (both, *_) = contexts(parts, model, conds[LATE] + conds[SMOKING], conds[""], steps=1)
    texts = {row.text: n for n, row in enumerate(session.receipt.rows)}
    (alone, *_) = contexts(parts, model, conds[SMOKING], conds[""], steps=1)
    (late, *_) = contexts(parts, model, conds[LATE], conds[""], steps=1)
    short = both[texts[SMOKING]]
    assert torch.equal(short[:77], short[77:]) and (short[:77] - alone[-1]).abs().max() < 1e-5
    assert (both[texts[LATE]] - late[-1]).abs().max() < 1e-5


def test_joined_conditionings(parts: Any, conds: Any) -> None:
    """As by Conditioning (Concat): the parts are texts of their own."""
    model, _ = guarded(parts, SAFREE)
    a, b = conds[APPLE][0], conds[SMOKING][0]
    (joined, *_) = contexts(parts, model, [[torch.cat([a[0], b[0]], 1), a[1]]], conds[""], steps=1)
    (alone, *_) = contexts(parts, model, conds[SMOKING], conds[""], steps=1)
    assert torch.equal(joined[-1, :77], a[0][0]) and (joined[-1, 77:] - alone[-1]).abs().max() < 1e-5


def test_a_zeroed_negative_beside_a_long_prompt(parts: Any, conds: Any) -> None:
    zero = [[torch.zeros_like(conds[LATE][0][0]), conds[""][0][1]]]
    model, session = guarded(parts, SAFREE)
    (given, *_) = contexts(parts, model, conds[LATE], zero, steps=1)
    assert session.receipt.opened and not given[0].any()


def test_a_long_prompt_judged(parts: Any) -> None:
    """Named in both of its windows, the concept is drawn, and under a guard of the encoder it is not."""
    from conceptguard.measuring.judges import load_judge

    text = "a cigarette, noto style, " + "plain background, soft light, " * 12 + "a cigarette"
    with torch.inference_mode():
        towards, away = encode(parts.clip, text), encode(parts.clip, "")
    assert towards[0][0].shape[1] == 154
    session = attach(
        (parts.model, parts.clip),
        {"guards": [{"method": "itd", "artifact": "emoji-sd/itd/ten-objects"}]},
    )
    session.host.candidates = lambda: [text, ""]

    def drawn(model: Any) -> int:
        latents = sample(model, towards, away, steps=25, batch=4)
        with torch.inference_mode():
            return load_judge("emoji-sd").judge(parts.vae.decode(latents).movedim(-1, 1)).objects.count("cigarette")

    assert drawn(parts.model) >= 2 and drawn(session.host.guarded()) == 0
