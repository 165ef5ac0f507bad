"""The example of a server, over HTTP: a policy for each request, and its load test, which finds what it looks for."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from image_guards import FlagsApples
from paths import ROOT
from random_artifacts import membrane

from conceptguard.testing.kit_guards import offered


def _example(name: str) -> Any:
    """A file of the example, under a name that no other module has: tests have a `server` of their own."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / "server" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


load, server = _example("load"), _example("server")
PROMPTS = ("a cigarette", "a dog", "a pistol")


@pytest.fixture
def url(tiny: Any, tmp_path: Path) -> Iterator[str]:
    """A server of a tiny model: a policy for each of two concepts, an empty one, and one that refuses apples."""
    with offered(FlagsApples) as flags:
        policies = {
            "cigarette": {"name": "cigarette", "guards": [membrane(tmp_path, tiny)]},
            "pistol": {"name": "pistol", "guards": [membrane(tmp_path, tiny, "pistol", seed=1)]},
            "everything": {"name": "everything", "guards": []},
            "no-apples": {"name": "no-apples", "guards": [flags]},
        }
        app = server.application(tiny, policies, "cigarette", waiting=8)
        running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        thread = threading.Thread(target=running.run, daemon=True)
        thread.start()
        while not running.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
        running.should_exit = True
        thread.join(60)


def asked(policy: str, prompt: str = "a dog", steps: int = 2) -> Any:
    return load.Ask(policy, prompt, steps, 0)


def test_a_policy_for_each_request(url: str) -> None:
    own, bare = load.fetch(url, asked("cigarette", "a cigarette")), load.fetch(url, asked("everything", "a cigarette"))
    assert own.status == bare.status == 200 and own.picture != bare.picture
    assert own.receipt["policy"] == "cigarette" and own.receipt["prompts"] == ["a cigarette"]
    assert own.receipt["acted"][0]["open"] == 1 and not bare.receipt["acted"]
    assert load.fetch(url, asked("pistol", "a cigarette")).picture == bare.picture


def test_what_cannot_be_drawn_says_why(url: str) -> None:
    refused = load.fetch(url, asked("no-apples", "a red apple"))
    assert (refused.status, refused.picture) == (403, "") and refused.receipt["verdicts"][0]["flagged"]
    assert load.fetch(url, asked("no-such-policy")).status == 404
    assert load.fetch(url, asked("pistol", steps=0)).status == 422
    assert load.fetch(url, asked("pistol", "€" * 1000)).receipt.keys() >= {"policy", "acted"}
    assert load.fetch(url, asked("pistol", "")).status == 422


def test_under_load(url: str) -> None:
    asks = [load.Ask(p, t, 2 + i % 2, i) for p in ("cigarette", "pistol", "everything") for i, t in enumerate(PROMPTS)]
    row = load.run(url, asks, "everything", 3, 4, os.getpid())
    assert row["right"] == row["n"] > 0 and not row["others"], row


def test_what_the_load_test_would_find() -> None:
    """An unguarded picture, another request's receipt, another picture, and a failure."""
    ask = asked("school")
    acts = {"policy": "school", "prompts": ["a dog"], "steps": 2, "acted": [{"guard": "g", "open": 1.0, "steps": 2}]}
    right, bare = load.Answer(200, "guarded", acts), load.Answer(200, "bare", {**acts, "acted": []})
    found = {
        "right": right,
        "unguarded": load.Answer(200, "bare", acts),
        "another receipt": load.Answer(200, "guarded", {**acts, "prompts": ["a cat"]}),
        "another picture": load.Answer(200, "other", acts),
        "failed": load.Answer(500, "", {}),
    }
    assert {what: load.judge(ask, got, {ask: right}, {ask: bare}) for what, got in found.items()} == {
        k: k for k in found
    }
    row = {"right": 9, "unguarded": 0, "another_receipt": 0, "others": {"told to come back": 1}, "growth": 0.01}
    assert load.good(row)
    for worse in ({"growth": 0.03}, {"unguarded": 1}, {"another_receipt": 1}, {"others": {"failed": 1}}, {"right": 0}):
        assert not load.good({**row, **worse}), worse
