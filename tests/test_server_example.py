"""The example of a server, over HTTP: a policy for each request, and its load test, which finds what it looks for."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from image_guards import FlagsApples
from paths import ROOT
from random_artifacts import membrane

from conceptguard import Method, hookimpl
from conceptguard.testing.kit_guards import Failing, offered


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


@contextmanager
def serving(app: Any) -> Iterator[tuple[str, uvicorn.Server, threading.Thread]]:
    """The application over HTTP, in a thread."""
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}", running, thread
    finally:
        running.should_exit = True
        thread.join(60)


@pytest.fixture
def url(tiny: Any, tmp_path: Path) -> Iterator[str]:
    """A server of a tiny model: a policy for each of two concepts, an empty one, a refusing one, a broken one."""
    with offered(FlagsApples) as flags, offered(Failing) as failing:
        policies = {
            "cigarette": {"name": "cigarette", "guards": [membrane(tmp_path, tiny)]},
            "pistol": {"name": "pistol", "guards": [membrane(tmp_path, tiny, "pistol", seed=1)]},
            "everything": {"name": "everything", "guards": []},
            "no-apples": {"name": "no-apples", "guards": [flags]},
            "broken": {"name": "broken", "guards": [failing]},
        }
        with serving(server.application(tiny, policies, "cigarette", waiting=8)) as (address, _, _):
            yield address


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


def body(url: str, ask: Any) -> tuple[int, dict[str, str], bytes]:
    """An answer's status, headers and content, whatever the status."""
    request = urllib.request.Request(
        f"{url}/pictures", json.dumps(ask._asdict()).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_a_guard_that_fails_is_a_500_without_a_picture(url: str) -> None:
    """It says which guard; the next request, of whatever policy, is served as before."""
    before = load.fetch(url, asked("cigarette", "a cigarette"))
    for _ in range(2):
        status, headers, content = body(url, asked("broken", "a cigarette"))
        assert status == 500 and headers["content-type"] == "application/json"
        assert "contract-failing" in json.loads(content)["detail"]
        assert load.fetch(url, asked("cigarette", "a cigarette")).picture == before.picture != ""


def test_an_unknown_policy_is_a_404_that_says_which_there_are(url: str) -> None:
    for name in ("no-such-policy", "", "../cigarette", "cigarette.yaml"):
        status, _, content = body(url, asked(name, "a cigarette"))
        assert status == 404 and "there are cigarette, pistol, everything" in json.loads(content)["detail"]


class Waits(Method):
    """Holds every step until it is let go."""

    name = "waits"
    needs = "nothing"
    drawing, go = threading.Event(), threading.Event()

    @hookimpl
    def predict_noise(self) -> None:
        self.drawing.set()
        assert self.go.wait(60)


@pytest.fixture
def slow(tiny: Any, tmp_path: Path) -> Iterator[Any]:
    """An application in which requests wait until they are let go, and two may."""
    Waits.drawing.clear(), Waits.go.clear()
    with offered(Waits) as waits:
        guards = [membrane(tmp_path, tiny), waits]
        yield server.application(tiny, {"slow": {"name": "slow", "guards": guards}}, "slow", waiting=2)
    Waits.go.set()


def three(pool: ThreadPoolExecutor, url: str) -> tuple[Any, list[Any]]:
    """(the answer to one of three requests that found no place, the other two, which hold theirs)."""
    sent = [pool.submit(body, url, asked("slow", "a cigarette")) for _ in range(3)]
    turned_away = next(as_completed(sent, timeout=60))
    assert Waits.drawing.wait(60)
    return turned_away.result(), [one for one in sent if one is not turned_away]


def test_one_request_too_many_is_told_to_come_back(slow: Any) -> None:
    with serving(slow) as (url, _, _), ThreadPoolExecutor(3) as pool:
        (status, headers, content), taken = three(pool, url)
        assert status == 503 and headers["retry-after"] == "5"
        assert "2 requests are waiting" in json.loads(content)["detail"] and not any(one.done() for one in taken)
        Waits.go.set()
        answers = [one.result() for one in taken]
        assert {status for status, _, _ in answers} == {200}
        assert body(url, asked("slow", "a cigarette"))[2] == answers[0][2], "there is a place again"


def test_shutting_down_amid_requests(slow: Any, tiny: Any) -> None:
    """What was taken is drawn under its policy and answered, nobody else is let in, and only then is the model without
    a guard."""
    with serving(slow) as (url, running, thread), ThreadPoolExecutor(3) as pool:
        _, taken = three(pool, url)
        running.should_exit = True
        until = time.monotonic() + 60
        with pytest.raises(OSError):
            while time.monotonic() < until:
                urllib.request.urlopen(f"{url}/policies", timeout=5).close()
        assert thread.is_alive() and hasattr(tiny, "_conceptguard") and not any(one.done() for one in taken)
        Waits.go.set()
        answers = [one.result() for one in taken]
        thread.join(60)
        assert not thread.is_alive() and not hasattr(tiny, "_conceptguard")
    assert {status for status, _, _ in answers} == {200} and answers[0][2] == answers[1][2]
    told = [json.loads(headers[server.HEADER]) for _, headers, _ in answers]
    assert all(one["policy"] == "slow" and one["acted"][0]["open"] == 1 for one in told)


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
