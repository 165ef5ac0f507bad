"""Threads and processes: nothing gets mixed up, whoever shares what with whom."""

from __future__ import annotations

import copy
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from random_artifacts import membrane
from tiny import clip_tokenizer, generate, tiny_sd

import conceptguard

PROMPTS = ["a cigarette", "a pistol", "a red apple"]


def sharing(pipe: Any) -> Any:
    """A second pipeline of the same parts, but for those that cannot work for two at once, guarded or not."""
    own = {"scheduler": DDIMScheduler.from_config(pipe.scheduler.config), "tokenizer": copy.deepcopy(pipe.tokenizer)}
    parts = {**pipe.components, **own}
    other = type(pipe)(**parts, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    return other


def test_two_sessions_on_one_unet_from_two_threads(tiny: Any, tmp_path: Path) -> None:
    pipes = [tiny, sharing(tiny)]
    policies = [{"guards": [membrane(tmp_path / c, tiny, c, seed=i)]} for i, c in enumerate(("cigarette", "pistol"))]
    alone = []
    for pipe, policy in zip(pipes, policies):
        with conceptguard.attach(pipe, policy):
            alone.append([generate(pipe, prompt, num_inference_steps=4) for prompt in PROMPTS])
    assert not torch.allclose(alone[0][0], alone[1][0])

    def work(pipe: Any) -> list[torch.Tensor]:
        return [generate(pipe, prompt, num_inference_steps=4) for _ in range(3) for prompt in PROMPTS]

    sessions = [conceptguard.attach(pipe, policy) for pipe, policy in zip(pipes, policies)]
    with sessions[0], sessions[1], ThreadPoolExecutor(2) as pool:
        together = list(pool.map(work, pipes))
    for got, want in zip(together, alone):
        assert all(torch.equal(g, w) for g, w in zip(got, want * 3))


def test_one_pipeline_from_two_threads(tiny: Any, tmp_path: Path) -> None:
    """The generations take turns."""
    with conceptguard.attach(tiny, {"guards": [membrane(tmp_path, tiny)]}):
        want = {prompt: generate(tiny, prompt) for prompt in PROMPTS}
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(lambda prompt: (prompt, generate(tiny, prompt)), PROMPTS * 6))
    assert all(torch.equal(picture, want[prompt]) for prompt, picture in got)


def _in_a_process(pipe: Any, guard: dict[str, Any], queue: Any) -> None:
    torch.set_num_threads(1)
    pipe = pipe if pipe is not None else tiny_sd(clip_tokenizer())
    with conceptguard.attach(pipe, {"guards": [guard]}) as session:
        picture = generate(pipe, PROMPTS[0])
        queue.put((picture.tolist(), session.receipt.to_dict()["acts"][0]["gates"]))


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_worker_processes(how: str, tokenizer: Any, tmp_path: Path) -> None:
    """A forked worker uses the parent's pipeline, a spawned one makes its own; the parent stays as it was."""
    if how not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {how} on this system")
    pipe = tiny_sd(tokenizer)
    guard = membrane(tmp_path, pipe)
    bare = generate(pipe, PROMPTS[0])
    with conceptguard.attach(pipe, {"guards": [guard]}):
        want = generate(pipe, PROMPTS[0])
    context = multiprocessing.get_context(how)
    queue = context.Queue()
    worker = context.Process(target=_in_a_process, args=(pipe if how == "fork" else None, guard, queue))
    worker.start()
    picture, gates = queue.get(timeout=250)
    worker.join(60)
    assert worker.exitcode == 0 and gates == [0, 1]
    # One thread adds up in another order.
    torch.testing.assert_close(torch.tensor(picture), want, rtol=1e-4, atol=1e-4)
    assert torch.equal(generate(pipe, PROMPTS[0]), bare)


def test_fork_under_an_attached_session(tiny: Any, tmp_path: Path) -> None:
    """A session that was attached before the fork works in the child and, untouched, in the parent."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork on this system")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with conceptguard.attach(tiny, {"guards": [membrane(tmp_path, tiny)]}) as session:
        want = generate(tiny, PROMPTS[0])

        def child() -> None:
            torch.set_num_threads(1)
            queue.put(generate(tiny, PROMPTS[0]).tolist())
            session.detach()

        worker = context.Process(target=child)
        worker.start()
        got = torch.tensor(queue.get(timeout=120))
        worker.join(60)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
        assert session.attached and torch.equal(generate(tiny, PROMPTS[0]), want)
