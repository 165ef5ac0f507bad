"""Runs generated graphs under an operator's policy, in a process of its own, and looks at all that leaves.

Each graph runs twice, on two drawings that the policy flags: whatever leaves, in files, messages, history or errors,
must be the same for both, or it tells something of what nobody may see. ``leaks.py CORE FOLDER SEED ALONE CHAINS``
prints {graphs, every, nodes, ran, refused, failed, leaks: [[name, one, other]], unlooked} as JSON on its last line;
ALONE and CHAINS: how many graphs of each, of ``every`` that there are of nodes alone; unlooked: whether a leak is seen
where there is one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import shutil
import signal
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from core import define_operators
from wirings import Graph, Link, Wirings

core_folder, folder, seed, alone, chains = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:6])
sys.argv = ["main.py", "--cpu", "--base-directory", str(folder), "--disable-api-nodes", "--disable-metadata"]
sys.argv += ["--front-end-root", str(folder)]
define_operators()
sys.path[0] = core_folder
sys.path.append(str(Path(__file__).parent))
del sys.modules["core"]

import main  # noqa: E402 - the core's, and first: it reads the arguments

# isort: split
import av  # noqa: E402
import execution  # noqa: E402
import torch  # noqa: E402
from server import PromptServer  # noqa: E402

import nodes  # noqa: E402

SLOW_S, SLOW = 20, "LoraSave"  # decomposes every weight of a model
START: Graph = {
    "demo": {"class_type": "ConceptGuardDemoModel", "inputs": {"name": "emoji-sd"}},
    "text": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["demo", 1]}},
    "beer": {"class_type": "CLIPTextEncode", "inputs": {"text": "a beer, noto style", "clip": ["demo", 1]}},
    "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "plain": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0x00C000}},
    "canvas": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
    "drawn": {"class_type": "KSampler", "inputs": {
        "model": ["demo", 0], "positive": ["beer", 0], "negative": ["text", 0], "latent_image": ["canvas", 0],
        "seed": 0, "steps": 6, "cfg": 3.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
    }},
    "decoded": {"class_type": "VAEDecode", "inputs": {"samples": ["drawn", 0], "vae": ["demo", 2]}},
}  # fmt: skip
GIVEN = [("demo", 0, "MODEL"), ("demo", 1, "CLIP"), ("demo", 2, "VAE"), ("text", 0, "CONDITIONING"),
         ("empty", 0, "LATENT"), ("plain", 0, "IMAGE")]  # fmt: skip
OPEN = [("drawn", 0, "LATENT"), ("decoded", 0, "IMAGE")]


class Loop:
    """Stands for the server's own event loop: what would be sent is kept."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def call_soon_threadsafe(self, put: Any, item: Any) -> None:
        self.sent.append(item)


def leaving(executor: Any, graph: Graph, seed: int) -> tuple[str, list[Any]]:
    """How a graph ended, "ran", "refused", "failed" or "slow", and all that left meanwhile."""
    server, ran = PromptServer.instance, "ran"
    graph = json.loads(json.dumps(graph))
    graph["drawn"]["inputs"]["seed"] = seed
    server.loop.sent.clear()
    torch.manual_seed(0)
    random.seed(0)
    data = server.trigger_on_prompt({"prompt": graph, "client_id": "c", "prompt_id": "p"})
    answer = asyncio.run(execution.validate_prompt("p", data["prompt"], None))
    if not answer[0]:
        return "refused" if "refused" in str(answer).lower() else "failed", []
    server.last_prompt_id = "p"
    signal.alarm(SLOW_S)
    try:
        executor.execute(data["prompt"], "p", {"client_id": "c"}, answer[2])
    except TimeoutError:
        return "slow", []
    finally:
        signal.alarm(0)
    for kind, told in executor.status_messages:
        if kind == "execution_error":
            ran = "refused" if told["exception_type"].endswith(("Held", "Refused", "PolicyError")) else "failed"
    told_when_due = ("conceptguard.receipt", False)  # as often as time allows
    out: list[Any] = [plain(item[:2]) for item in server.loop.sent if (item[0], item[1].get("done")) != told_when_due]
    out += [plain(executor.history_result), plain(executor.status_messages)]
    out += sorted(hashlib.sha256(content(file)).hexdigest() for file in written())
    for place in ("output", "temp"):
        shutil.rmtree(folder / place, ignore_errors=True)
        (folder / place).mkdir()
    return ran, out


def written() -> list[Path]:
    return [file for place in ("output", "temp") for file in (folder / place).rglob("*") if file.is_file()]


def content(file: Path) -> bytes:
    """What a file shows: a video has an identity of its own in each file."""
    if file.suffix not in (".webm", ".mp4"):
        return file.read_bytes()
    with av.open(str(file)) as video:
        return b"".join(frame.to_ndarray().tobytes() for frame in video.decode(video=0))


def plain(told: Any) -> str:
    """Without what differs between any two runs, times, names, addresses, and without scores, which are told."""
    text = json.dumps(told, default=str, sort_keys=True)
    text = re.sub(r'"(timestamp|seconds|score)": [0-9.]+|score [0-9.]+|seed\W+[01],', "", text)
    return re.sub(r'"(filename|subfolder)": "[^"]*"|0x[0-9a-f]+|[0-9a-f]{32}', "", text)


def overdue(*_: Any) -> None:
    raise TimeoutError


def go() -> dict[str, Any]:
    main.start_comfyui()
    server = PromptServer.instance
    server.loop, server.client_id = Loop(), "c"
    signal.signal(signal.SIGALRM, overdue)
    left_out = ("ConceptGuard", SLOW)
    own = {name: cls for name, cls in nodes.NODE_CLASS_MAPPINGS.items() if not name.startswith(left_out)}
    wirings, dice = Wirings(own, dict(START), GIVEN), random.Random(seed)
    executors = [execution.PromptExecutor(server, cache_args={"lru": 0, "ram": 0}) for _ in range(3)]
    graphs = list(wirings.alone(dice, ways(wirings, executors.pop())))
    every = len(graphs)
    graphs = dice.sample(graphs, min(alone, every))
    while len(graphs) < min(alone, every) + chains:
        graphs += [found for found in [wirings.chain(dice, OPEN)] if found]
    ends: Counter[str] = Counter()
    leaks, tried = [], set()
    for name, graph in graphs:
        needed = used(graph, wirings.start)
        (end, one), (_, other) = (leaving(executor, needed, seed) for seed, executor in enumerate(executors))
        ends[end] += 1
        tried |= {each["class_type"] for key, each in graph.items()}
        if one != other:
            at = next((i for i, pair in enumerate(zip(one, other)) if pair[0] != pair[1]), None)
            leaks += [[name, *([] if at is None else [one[at][:2000], other[at][:2000]])]]
        print(end, name, "LEAKS" if one != other else "", file=sys.stderr)
    return {"graphs": len(graphs), "every": every, "nodes": len(tried), **ends, "leaks": leaks, "unlooked": unlooked()}


def ways(wirings: Wirings, executor: Any) -> dict[str, tuple[Graph, Link]]:
    """To every type, on nodes that do not fail on the way."""
    broken: set[str] = set()
    while True:
        found = wirings.reached(OPEN, broken)
        failed = set()
        for kind, (graph, link) in found.items():
            shown = wirings.with_node(graph, "last", "PreviewAny", {"source": link})
            if (
                shown
                and kind not in ("LATENT", "IMAGE")
                and leaving(executor, used(shown, wirings.start), 0)[0] == "failed"
            ):
                failed.add(graph[link[0]]["class_type"])
        if not failed:
            return found
        broken |= failed


def unlooked() -> bool:
    """Whether the same means see a leak, where a look finds nothing."""
    pictures = next(module for name, module in sys.modules.items() if name.endswith(".enforcement.pictures"))
    look, pictures.look = pictures.look, lambda *a: replace(look(*a), flagged=[], refusal=None)
    graph = used({"out": {"class_type": "PreviewImage", "inputs": {"images": ["decoded", 0]}}}, START)
    server = PromptServer.instance
    one, other = (leaving(execution.PromptExecutor(server, cache_args={"lru": 0, "ram": 0}), graph, n) for n in (2, 3))
    return one != other


def used(graph: Graph, start: Graph) -> Graph:
    """A graph with as much of the start as it links to, and always the drawing."""
    whole = dict(graph)
    queue = ["decoded", *whole]
    while queue:
        key = queue.pop()
        whole.setdefault(key, start.get(key, {}))
        links = whole[key].get("inputs", {}).values()
        queue += [link[0] for link in links if isinstance(link, list) and link[0] not in whole]
    return whole


print(json.dumps(go()))
sys.stdout.flush()
import os  # noqa: E402

os._exit(0)  # the core's worker waits for prompts
