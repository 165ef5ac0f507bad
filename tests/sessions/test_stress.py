"""Attach, generate, cancel and detach from eight threads on two pipelines that share a UNet: each picture and each
receipt is that of its own policy and prompt. ``pytest -m slow -s tests/sessions/test_stress.py`` runs ten thousand
cycles."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from random_artifacts import membrane
from test_callers import sharing
from tiny import generate

import conceptguard
from conceptguard.errors import SessionError
from conceptguard.testing.traces import differences, snapshot

THREADS, STEPS = 8, 2
PROMPTS = {"a cigarette": [1, 0], "a pistol": [0, 1], "a cigarette, a pistol": [1, 1], "a red apple": [0, 0]}


class Cancelled(Exception):
    """What a server raises whose user went away."""


def cancel(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
    raise Cancelled


@pytest.mark.parametrize("cycles", [64, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])])
def test_nothing_is_mixed_up(cycles: int, tiny: Any, tmp_path: Path) -> None:
    pipes = [tiny, sharing(tiny)]
    guards = [membrane(tmp_path / name, tiny, name, seed=i) for i, name in enumerate(("cigarette", "pistol"))]
    policies = [
        conceptguard.load_policy({"name": name, "guards": chosen})
        for name, chosen in (("first", guards[:1]), ("second", guards[1:]), ("both", guards), ("none", []))
    ]
    columns = {"first": [0], "second": [1], "both": [0, 1], "none": []}
    bare, _ = ({prompt: generate(pipe, prompt) for prompt in PROMPTS} for pipe in pipes)
    before = [snapshot(pipe) for pipe in pipes]
    want = {}
    for policy in policies:
        with conceptguard.attach(tiny, policy):
            want |= {(policy.name, prompt): generate(tiny, prompt) for prompt in PROMPTS}
    assert torch.equal(want["none", "a pistol"], bare["a pistol"])
    assert not torch.equal(want["first", "a cigarette"], bare["a cigarette"])

    left, counts, lock = iter(range(cycles)), Counter[str](), threading.Lock()

    def told(receipt: Any, policy: str, prompt: str, steps: int) -> bool:
        opens = [[0.0, float(PROMPTS[prompt][i])] for i in columns[policy]]
        ran = [list(range(steps)) if any(gates) else [] for gates in opens]
        found = [act.gates for act in receipt.acts], [act.steps for act in receipt.acts]
        rows = [row.text for row in receipt.rows]
        return (receipt.policy, receipt.steps, rows, *found) == (policy, steps, ["", prompt], opens, ran)

    def cycle(number: int) -> Counter[str]:
        chance, own = random.Random(number), Counter[str](cycles=1)
        policy, prompt, pipe = chance.choice(policies), chance.choice(list(PROMPTS)), chance.choice(pipes)
        while True:
            try:
                session = conceptguard.attach(pipe, policy)
                break
            except SessionError:
                own["refused attaches"] += 1
                time.sleep(0.02)
        with session:
            if chance.random() < 0.3:
                with pytest.raises(Cancelled):
                    generate(pipe, prompt, callback_on_step_end=cancel)
                own["cancelled"] += 1
                own["wrong receipts"] += not told(session.receipt, policy.name, prompt, 1)
            if chance.random() < 0.8:
                picture = generate(pipe, prompt)
                own["pictures"] += 1
                own["wrong pictures"] += not torch.equal(picture, want[policy.name, prompt])
                own["wrong receipts"] += not told(session.receipt, policy.name, prompt, STEPS)
        return own

    def work() -> None:
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            try:
                found = cycle(number)
            except BaseException as error:
                found = Counter([f"{type(error).__name__}: {error}"])
            with lock:
                counts.update(found)

    started = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"\n{THREADS} threads, {time.perf_counter() - started:.0f} s: {dict(counts)}")
    named = {"cycles", "refused attaches", "cancelled", "pictures", "wrong pictures", "wrong receipts"}
    assert counts["cycles"] == cycles and not counts["wrong pictures"] and not counts["wrong receipts"], counts
    assert set(counts) <= named, counts
    assert not [key for pipe, old in zip(pipes, before) for key in differences(old, snapshot(pipe))]
    assert all(torch.equal(generate(pipe, prompt), bare[prompt]) for pipe in pipes for prompt in PROMPTS)
