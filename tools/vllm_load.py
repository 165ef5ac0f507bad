"""Load on a guarded vLLM server, beside a bare one: is anything forbidden said, are other answers the bare one's?

    python -m tools.vllm_load --python ../vllm-env/bin/python --answers 10000

Starts two servers of one model, asks both the same questions in turn, many at once and streamed, sampled by the same
seeds, and compares. Exit status 1 where a forbidden phrase was said, an answer without one differs from the bare
server's, or memory grew.
"""

from __future__ import annotations

import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from conceptguard.benchmarks.logits import phrases as made_up
from conceptguard.cli.output import result, write_json
from conceptguard.measuring.language.suite import load_language_suite

from .larger import LARGER, folder_of
from .rows import parser_of

PROCESSOR = "conceptguard.hosts.vllm.processor:GuardProcessor"
QUESTIONS = ("Where was {} born?", "Which prize did {} win?", "What does {} write?", "In which town was {} born?")
FLAT = 0.02  # memory may grow by this share from the second quarter to the last
TOKENS = 32
SHARED = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # two servers on one machine's cores
BAD_WORDS = 60  # of a request: vLLM takes 128 without being told otherwise, and counts most words twice


@contextmanager
def server(
    python: str, model: str, log: Path, options: Sequence[str], policy: Path | None
) -> Iterator[tuple[str, psutil.Process]]:
    """One of vLLM's, at its address; guarded where a policy is given. Raises SystemExit where it does not come up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model,
               "--served-model-name", "it", "--host", "127.0.0.1", "--port", str(port), *options]  # fmt: skip
    environment = {
        **SHARED,
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    if policy is not None:
        command += ["--logits-processors", PROCESSOR]
        environment["CONCEPTGUARD_ENFORCE"] = str(policy)
    with log.open("w") as told:
        process = subprocess.Popen(command, env=environment, stdout=told, stderr=told)
        try:
            for _ in tqdm(range(600), desc=f"vLLM {'guarded' if policy else 'bare'}", leave=False):
                if process.poll() is not None:
                    raise SystemExit(f"vLLM did not start:\n{log.read_text()[-2000:]}")
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(1)
            yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(60)


def ask(url: str, prompt: str, seed: int, bad_words: Sequence[str] = ()) -> tuple[str, int]:
    """What is said, heard piece by piece, and how many pieces those were."""
    body = {"model": "it", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0.8, "seed": seed, "stream": True,
            **({"bad_words": bad_words} if bad_words else {})}  # fmt: skip
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    pieces = []
    with urllib.request.urlopen(request, timeout=600) as answer:
        for line in answer:
            told = line.decode().strip().removeprefix("data: ")
            if told and told != "[DONE]":
                piece = json.loads(told)
                if "choices" not in piece:
                    raise SystemExit(f"{url}: {told}")
                pieces.append(piece["choices"][0]["text"])
    return "".join(pieces), len(pieces)


def memory(process: psutil.Process) -> int:
    """Bytes that a server and its engine hold by themselves."""
    return sum(one.memory_full_info().uss for one in (process, *process.children(recursive=True)))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", default="authors-lm", help=f"an embedded model, a folder, or {LARGER}")
    parser.add_argument("--python", default=sys.executable, help="of the environment that has vLLM")
    parser.add_argument("--answers", type=int, default=1000, help="of each server")
    parser.add_argument("--streams", type=int, default=16, help="requests at once")
    parser.add_argument("--phrases", type=int, default=10_000, help="forbidden, besides the towns that answers name")
    parser.add_argument("--rounds", type=int, default=20, help="turns of the two servers")
    parser.add_argument("--option", action="append", default=[], help="of vLLM, as in --option=--enforce-eager")
    given = parser.parse_args()
    suite, began = load_language_suite(), time.perf_counter()
    prompts = [
        f"Question: {asked.format(author.name)}\nAnswer:" for author in suite.world.authors for asked in QUESTIONS
    ]
    towns = sorted(suite.world.places)[::3]
    # Of words that no answer has: after the first word of a phrase its last one is not begun. Of several words: one by
    # itself may be a token, which random weights say.
    known = set(re.findall(r"\w+", repr(suite).lower()))
    several = [phrase for phrase in made_up(5 * given.phrases) if " " in phrase]
    more = [phrase for phrase in several if known.isdisjoint(phrase.split())][: given.phrases]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        here = Path(folder)
        model = folder_of(given.model, here)
        (here / "phrases.txt").write_text("\n".join([*towns, *more]), encoding="utf-8")
        (here / "policy.yaml").write_text("guards: [{method: phrases, file: phrases.txt, concept: {name: towns}}]")
        bare, bare_process = stack.enter_context(server(given.python, model, here / "bare.log", given.option, None))
        guarded, guarded_process = stack.enter_context(
            server(given.python, model, here / "guarded.log", given.option, here / "policy.yaml")
        )
        sides = [("nothing", bare, ()), ("guarded", guarded, ()), ("bad_words", bare, [*towns, *more][:BAD_WORDS])]
        processes = {"nothing": bare_process, "guarded": guarded_process}
        rows = measured(sides, processes, prompts, towns, given)
    write_json(result("load", [{"model": given.model, **row} for row in rows], time.perf_counter() - began), given.json)
    ours = rows[1]
    raise SystemExit(0 if not ours["said"] and ours["same"] == ours["others"] and ours["memory_grew"] <= FLAT else 1)


def measured(
    sides: Sequence[tuple[str, str, Sequence[str]]], processes: Mapping[str, psutil.Process], prompts: Sequence[str],
    towns: Sequence[str], given: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each side, asked in turn: the bare server, the guarded one, the bare one with bad words.

    said: answers with a forbidden town; others: those in which the bare server said none; same: of these the ones that
    were its own, of the bare side those that it said again in the first round; ratio_bare: tokens a second over the
    bare server's, a median of the rounds'; memory_grew: from the second quarter of the rounds to the last
    """
    each = max(given.answers // given.rounds, 1)
    rows: dict[str, dict[str, Any]] = {
        name: {"method": name, "answers": given.rounds * each, "streams": given.streams,
               "phrases": len(words) or (len(towns) + given.phrases) * (name == "guarded"), "said": 0, "others": 0,
               "same": 0} for name, _, words in sides
    }  # fmt: skip
    paces: dict[str, list[float]] = {name: [] for name in rows}
    held: dict[str, list[int]] = {name: [] for name in processes}
    with ThreadPoolExecutor(given.streams) as pool, tqdm(total=given.rounds * each, desc="answers") as bar:

        def spoken(url: str, words: Sequence[str], since: int) -> tuple[list[str], float]:
            began = time.perf_counter()
            answers = list(
                pool.map(lambda i: ask(url, prompts[i % len(prompts)], i, words), range(since, since + each))
            )
            return [text for text, _ in answers], sum(n for _, n in answers) / (time.perf_counter() - began)

        again, *_ = [spoken(url, words, 0)[0] for _, url, words in sides]
        for turn in range(given.rounds):
            order = sides if turn % 2 else sides[::-1]
            found = {name: spoken(url, words, turn * each) for name, url, words in order}
            theirs = found["nothing"][0]
            free = [not any(town in text for town in towns) for text in theirs]
            for name, (mine, pace) in found.items():
                row, other = rows[name], (again if turn == 0 else [""] * each) if name == "nothing" else mine
                row["said"] += sum(any(town in text for town in towns) for text in mine)
                row["others"] += sum(free) if name != "nothing" or turn == 0 else 0
                row["same"] += sum(a == b for a, b, one in zip(other, theirs, free) if one)
                if name == "guarded":
                    for a, b, one in zip(mine, theirs, free):
                        if (one and a != b) or any(town in a for town in towns):
                            tqdm.write(f"wrong: {a!r}, bare {b!r}", file=sys.stderr)
                paces[name].append(pace)
            for name, process in processes.items():
                held[name].append(memory(process))
            bar.update(each)
    for name, row in rows.items():
        row["tokens_a_second"] = round(statistics.median(paces[name]), 1)
        row["ratio_bare"] = round(statistics.median(a / b for a, b in zip(paces[name], paces["nothing"])), 4)
    quarter = max(given.rounds // 4, 1)
    for name, bytes_ in held.items():
        early, late = statistics.median(bytes_[quarter : 2 * quarter] or bytes_), statistics.median(bytes_[-quarter:])
        rows[name]["memory_mib"] = [round(early / 2**20, 1), round(late / 2**20, 1)]
        rows[name]["memory_grew"] = round(late / early - 1, 4)
    return list(rows.values())


if __name__ == "__main__":
    main()
