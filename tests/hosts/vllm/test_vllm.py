"""vLLM's own engine and server, in an environment of their own: run with ``-m slow``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from environment import python, run
from paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
MODEL = str(ROOT / "registry" / "models" / "authors-lm")
TOWNS = ("Broholm", "Poburra", "Panesse")
POLICY = f"guards: [{{method: phrases, concept: {{name: towns, prompts: [{', '.join(TOWNS)}]}}}}]"
ASKED = [f"Question: Where was {name} born?\nAnswer:" for name in ("Siojaera Zavald", "Naes Zavald")]
OTHERS = ["On which river does Broholm lie?\n", "The author", "Question: What does a gardener do?\nAnswer:", "Who"]
LONG = [" ".join(["The author Naes Zavald went on with The Frozen Lantern."] * 6) + "\n" + ASKED[0]]


def say(
    runner: int, guarded: bool, *requests: Any, policy: str = POLICY, folder: Path | None = None, **options: Any
) -> Any:
    given = {"model": MODEL, "runner": runner, "guarded": guarded, "requests": requests, "options": options}
    named = {} if folder is None else {"CONCEPTGUARD_POLICIES": str(folder)}
    out = run(Path(__file__).with_name("engine.py"), json.dumps(given), CONCEPTGUARD_ENFORCE=policy, **named)
    return json.loads(out.splitlines()[-1])


def texts(said: Any) -> str:
    return " | ".join(text for request in said for row in request for _, text in row)


GREEDY = {"temperature": 0, "max_tokens": 24}
DRAWN = {"temperature": 1.3, "max_tokens": 24, "n": 3}


@pytest.mark.parametrize("runner", [1, 2])
def test_the_engine_says_what_guards_leave_open_and_nothing_else(runner: int) -> None:
    """Greedy, sampled and several of one prompt, many at once; unrelated ones stay, to the last token."""
    requests = [[ASKED * 4 + OTHERS, GREEDY], [ASKED * 4 + OTHERS, DRAWN], [OTHERS, {**DRAWN, "ignore_eos": True}]]
    bare, guarded = say(runner, False, *requests), say(runner, True, *requests)
    assert bare["runner"] == guarded["runner"] and ("cpu.model_runner" in bare["runner"]) == (runner == 2)
    assert all(town in texts(bare["said"]) for town in TOWNS[:1])
    assert not any(town in texts(guarded["said"]) for town in TOWNS)
    same = [
        mine == theirs
        for one, other in zip(guarded["said"], bare["said"])
        for row, others in zip(one, other)
        for mine, theirs in zip(row, others)
        if not any(town in theirs[1] for town in TOWNS)
    ]
    assert len(same) > 20 and all(same)


@pytest.mark.parametrize("runner", [1, 2])
def test_requests_that_are_put_off_and_prompts_in_parts_change_nothing(runner: int) -> None:
    """Room for fewer texts than there are, and prompts that come a few tokens at a time."""
    request = [ASKED * 2 + LONG * 2, {"temperature": 0, "max_tokens": 140, "ignore_eos": True}]
    roomy = say(runner, True, request)
    tight = say(runner, True, request, num_gpu_blocks_override=5, max_num_batched_tokens=32, block_size=128,
                enable_prefix_caching=False)  # fmt: skip
    assert tight["put_off"] > 0 and not roomy["put_off"]
    assert tight["said"] == roomy["said"] and not any(town in texts(tight["said"]) for town in TOWNS)


@pytest.mark.parametrize("runner", [1, 2])
def test_a_policy_for_each_request_and_what_is_refused(runner: int, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("guards: [{method: phrases, concept: {name: more, prompts: [born, was]}}]")
    (tmp_path / "none.yaml").write_text("guards: [{method: no_thinking}]")
    ask = [*ASKED, *OTHERS]
    found = say(
        runner, True, [ask, GREEDY], [ask, {**GREEDY, "extra_args": {"conceptguard": "more"}}],
        [ask, {**GREEDY, "extra_args": {"conceptguard": "none"}}],
        [ask, {**GREEDY, "extra_args": {"conceptguard": "../more"}}], [ask, {**GREEDY, "logprobs": 2}],
        [ask, {**GREEDY, "prompt_logprobs": 2}], [ask, {"beams": 2}], [ask, GREEDY], folder=tmp_path,
    )["said"]  # fmt: skip
    first, more, none, unknown, shown, about_prompts, beams, last = found
    assert " was born" in texts([first]) and " born" not in texts([more]) and " was" not in texts([more])
    assert first == none == last and not any(town in texts([first, more]) for town in TOWNS)
    assert "no policy '../more': did you mean 'more'?" in unknown
    assert all("would show what guards have closed" in one for one in (shown, about_prompts, beams))


def test_an_engine_that_could_not_keep_a_promise_does_not_start() -> None:
    drafts = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}
    for options, why in (
        ({"speculative_config": drafts}, "speculative decoding"),
        ({"enable_prompt_embeds": True}, "promise 4, that a guard sees every condition"),
    ):
        assert why in say(1, True, **options)["start"]
    inside = say(1, True, policy="forget-authors-inside")["start"]
    assert "promise 3" in inside or "reaches on vllm" in inside
    assert "no policy: set CONCEPTGUARD_ENFORCE" in say(1, True, policy="")["start"]


def test_a_release_with_other_logits_processors_is_told_of() -> None:
    hidden = "import sys; sys.modules['vllm.v1.worker.gpu.sample.logits_processor'] = None"
    done = subprocess.run(
        [python(), "-c", f"{hidden}; import conceptguard.hosts.vllm.processor"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "SessionError: this vLLM has other logits processors than those that conceptguard knows" in done.stderr


def test_its_server_under_load(tmp_path: Path) -> None:
    """Over HTTP, streamed, many at once: see ``tools.vllm_load``. Status 1 where anything is wrong."""
    options = ("--option=--dtype=float32", "--option=--enforce-eager", "--option=--max-model-len=256")
    done = subprocess.run(
        [sys.executable, "-m", "tools.vllm_load", "--python", python(), "--answers", "160",
         "--rounds", "8", "--phrases", "500", "--json", str(tmp_path / "load.json"), *options],
        capture_output=True, text=True, timeout=2000, cwd=ROOT,
    )  # fmt: skip
    bare, guarded, words = json.loads((tmp_path / "load.json").read_text("utf-8"))["rows"]
    assert done.returncode == 0, done.stderr[-2000:]
    assert bare["said"] > words["said"] > guarded["said"] == 0 and guarded["same"] == guarded["others"] > 80
