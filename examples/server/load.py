"""Load on the example server: are all pictures guarded, is every receipt its own, does memory stay flat?

    python examples/server/load.py --seconds 60 --clients 8

Starts a server, asks for every combination of policy and prompt once by itself, then for all of them from many clients
at once. A picture must be the one that was drawn by itself, to the last bit; one that a policy guards must not be the
unguarded one; a receipt must be of its request's policy, prompt and steps. Exit status 1 where anything was not so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from tqdm import tqdm

HERE = Path(__file__).parent
PROMPTS = ("a cigarette, noto style", "a beer mug, noto style", "a dog, noto style", "a cup of tea, noto style")
FLAT = 0.02  # memory may grow by this share from the second to the last quarter


class Ask(NamedTuple):
    """One request."""

    policy: str
    prompt: str
    steps: int
    seed: int


class Answer(NamedTuple):
    """status: of HTTP; picture: its hash; receipt: of the header"""

    status: int
    picture: str
    receipt: dict[str, Any]


def fetch(url: str, ask: Ask, timeout: float = 600) -> Answer:
    """Ask, and wait."""
    body = json.dumps(ask._asdict()).encode()
    request = urllib.request.Request(f"{url}/pictures", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            status, headers, content = answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        status, headers, content = error.code, error.headers, b""
    receipt = json.loads(headers.get("conceptguard-receipt") or "{}")
    return Answer(status, hashlib.sha256(content).hexdigest() if status == 200 else "", receipt)


def judge(ask: Ask, got: Answer, alone: dict[Ask, Answer], unguarded: dict[Ask, Answer]) -> str:
    """``right``, or what is wrong with an answer.

    alone: what was answered without others; unguarded: what no guard draws, for asks that guards act on
    """
    if got.status == 503:
        return "told to come back"
    if got.status != alone[ask].status:
        return "failed"
    own = unguarded.get(ask)
    if own is not None and got.picture == own.picture:
        return "unguarded"
    told = (got.receipt.get("policy"), got.receipt.get("prompts"), got.receipt.get("steps"))
    if told != (ask.policy, [ask.prompt], ask.steps) or _acted(got) != _acted(alone[ask]):
        return "another receipt"
    return "right" if got.picture == alone[ask].picture else "another picture"


def _acted(answer: Answer) -> list[tuple[str, float, int]]:
    return [(act["guard"], act["open"], act["steps"]) for act in answer.receipt.get("acted", ())]


def references(url: str, asks: Sequence[Ask], open_policy: str) -> tuple[dict[Ask, Answer], dict[Ask, Answer]]:
    """(what is answered to each ask by itself, what no guard draws for those that guards act on)."""
    alone = {ask: fetch(url, ask) for ask in tqdm(asks, desc="each by itself")}
    bare = {ask: alone[ask._replace(policy=open_policy)] for ask in asks if _acted(alone[ask])}
    for ask, own in bare.items():
        if own.picture == alone[ask].picture:
            raise SystemExit(f"{ask}: guards acted, and drew what is drawn without them: nothing could be told apart")
    if not bare:
        raise SystemExit("no guard acts on any of these prompts: nothing could be told apart")
    return alone, bare


def run(url: str, asks: Sequence[Ask], open_policy: str, seconds: float, clients: int, process: int) -> dict[str, Any]:
    """Load it, and give one row."""
    alone, bare = references(url, asks, open_policy)
    found: Counter[str] = Counter()
    sizes: list[float] = []
    lock, end = threading.Lock(), time.monotonic() + seconds

    def client(number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < end:
            ask = chance.choice(asks)
            try:
                what = judge(ask, fetch(url, ask), alone, bare)
                if chance.random() < 0.02 and fetch(url, ask._replace(policy="no-such-policy")).status != 404:
                    what = "drew under an unknown policy"
            except OSError as error:
                what = f"no answer ({type(error).__name__})"
            with lock:
                found[what] += 1

    watched = psutil.Process(process)
    with ThreadPoolExecutor(clients) as pool, tqdm(total=round(seconds), desc="all at once", unit="s") as bar:
        work = [pool.submit(client, number) for number in range(clients)]
        while not all(one.done() for one in work):
            time.sleep(min(1.0, seconds / 20))
            sizes.append(watched.memory_info().rss / 2**20)
            bar.update(max(0, min(round(seconds - (end - time.monotonic())), round(seconds)) - bar.n))
    quarter = max(len(sizes) // 4, 1)
    before, after = statistics.median(sizes[quarter : 2 * quarter] or sizes), statistics.median(sizes[-quarter:])
    return {
        "clients": clients, "seconds": seconds, "n": sum(found.values()), "per_second": sum(found.values()) / seconds,
        **{name.replace(" ", "_"): found.pop(name, 0) for name in ("right", "unguarded", "another receipt")},
        "others": dict(found), "mib_before": before, "mib_after": after, "growth": after / before - 1,
    }  # fmt: skip


def good(row: dict[str, Any]) -> bool:
    """Whether the load shows what it should."""
    others = {name for name in row["others"] if name != "told to come back"}
    return row["right"] > 0 and not (row["unguarded"] or row["another_receipt"] or others) and row["growth"] <= FLAT


def serve(port: int, more: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the server beside this file, and wait for it."""
    process = subprocess.Popen([sys.executable, str(HERE / "server.py"), "--port", str(port), *more])
    for _ in range(1200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/policies", timeout=5).close()
            return process
        except OSError:
            if process.poll() is not None:
                raise SystemExit("the server ended before it answered") from None
            time.sleep(0.5)
    raise SystemExit("the server does not answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="denoising steps of a picture, and one more for some")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--json", metavar="FILE", help="write the row to FILE; - is standard output")
    given = parser.parse_args()
    server = serve(given.port, ["--waiting", str(2 * given.clients)])
    try:
        names = ("school", "bar", "everything")
        asks = [Ask(p, t, given.steps + i % 2, i) for p in names for i, t in enumerate(PROMPTS)]
        row = run(f"http://127.0.0.1:{given.port}", asks, "everything", given.seconds, given.clients, server.pid)
    finally:
        server.terminate()
        server.wait(60)
    whole = {"command": "load", "seconds": given.seconds, "rows": [row]}
    if given.json == "-":
        print(json.dumps(whole, indent=1))
    else:
        if given.json:
            Path(given.json).write_text(json.dumps(whole, indent=1) + "\n")
        print("\n".join(f"{name:16} {value}" for name, value in row.items()))
    sys.exit(not good(row))


if __name__ == "__main__":
    main()
