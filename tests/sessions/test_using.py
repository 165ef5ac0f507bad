"""Another policy in an attached one's place, call by call: whose guards act, whose receipt it is, what is refused."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from random_artifacts import membrane, random_terms, write_terms
from text_guards import given
from tiny import generate
from tiny_language import tiny_llama
from tiny_language import tokenizer as language_tokenizer

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import GuardError, PolicyError, Refused, SessionError
from conceptguard.generation.decoding import Decoding
from conceptguard.sessions import using
from conceptguard.testing.kit_guards import Beside, Replacing, offered
from conceptguard.testing.traces import differences, snapshot

PROMPT = "a cigarette, a pistol"
NONE: dict[str, Any] = {"name": "none", "guards": []}


@pytest.fixture
def policies(tiny: Any, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Three that draw one prompt differently, of which one acts in the text encoder, and an empty one."""
    inside = random_terms(tiny, component="text_encoder", names=("fc1", "fc2"), seed=5)
    guards = {
        "cigarette": membrane(tmp_path, tiny),
        "pistol": membrane(tmp_path, tiny, "pistol", seed=1),
        "encoder": {"method": "lora", "artifact": str(write_terms(tmp_path / "lora", tiny, inside, method="lora"))},
    }
    return {**{name: {"name": name, "guards": [guard]} for name, guard in guards.items()}, "none": NONE}


def wanted(tiny: Any, policies: dict[str, dict[str, Any]], prompt: str = PROMPT) -> dict[str, torch.Tensor]:
    """What each policy draws where it is the attached one: four different pictures."""
    found = {}
    for name, policy in policies.items():
        with conceptguard.attach(tiny, policy):
            found[name] = generate(tiny, prompt)
    names = list(found)
    assert not any(torch.equal(found[a], found[b]) for i, a in enumerate(names) for b in names[:i])
    return found


def test_each_draws_what_it_draws_attached(tiny: Any, policies: dict[str, dict[str, Any]]) -> None:
    """Whichever is attached. Nothing is left."""
    want, before = wanted(tiny, policies), snapshot(tiny)
    for base in ("none", "encoder"):
        with conceptguard.attach(tiny, policies[base]) as guard:
            for name in [*policies, *reversed(policies)]:
                with guard.using(policies[name]) as other:
                    assert torch.equal(generate(tiny, PROMPT), want[name]), (base, name)
                    assert other.receipt.policy == other.policy.name == name
                    assert bool(other.receipt.opened) == (name != "none") and other.receipt.steps == 2
                assert torch.equal(generate(tiny, PROMPT), want[base])
                assert guard.receipt.policy == base
        assert not differences(before, snapshot(tiny))


class _Looks(Method):
    """Asks the text encoder something while it is made."""

    name = "looks"
    needs = "nothing"
    seen: ClassVar[list[torch.Tensor]] = []

    def __init__(self, *given: Any):
        super().__init__(*given)
        with torch.no_grad():
            self.seen.append(self.host.target.text_encoder(torch.tensor([[320, 321]])).last_hidden_state)

    @hookimpl
    def predict_noise(self) -> None:
        """Nothing."""


def test_guards_are_made_under_no_ones_terms(tiny: Any, tmp_path: Path) -> None:
    """What the attached policy adds to the text encoder, always, is not in what another one measures there."""
    inside = random_terms(tiny, component="text_encoder", names=("fc1", "fc2"))
    lora = {"method": "lora", "artifact": str(write_terms(tmp_path / "lora", tiny, inside, method="lora"))}
    with offered(_Looks) as looks:
        with conceptguard.attach(tiny, {"guards": [looks]}):
            pass
        always = {"guards": [{**lora, "gate": "always"}]}
        with conceptguard.attach(tiny, always) as guard, guard.using({"guards": [looks]}):
            pass
    bare, beside = _Looks.seen
    assert torch.equal(bare, beside)


def test_threads_have_their_own(tiny: Any, policies: dict[str, dict[str, Any]]) -> None:
    """Also where several are the first to use a policy."""
    want = wanted(tiny, policies)
    with conceptguard.attach(tiny, policies["cigarette"]) as guard:

        def work(number: int) -> list[bool]:
            found = []
            for turn in range(6):
                name = list(policies)[(number + turn) % len(policies)]
                with guard.using(policies[name]) as other:
                    right = torch.equal(generate(tiny, PROMPT), want[name])
                    found.append(right and other.receipt.policy == name and other.receipt.steps == 2)
            return found

        with ThreadPoolExecutor(4) as pool:
            beside = [pool.submit(work, number) for number in range(4)]
            assert torch.equal(generate(tiny, PROMPT), want["cigarette"])
            assert all(all(one.result()) for one in beside)


def test_a_loop_of_ones_own_is_under_what_it_chose(tiny: Any, policies: dict[str, dict[str, Any]]) -> None:
    """Gates stay open from call to call: those of another policy act on no call of this one, nor its memory."""
    latents, texts = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), (PROMPT, "a red apple")
    embeds = [tiny.encode_prompt(text, "cpu", 1, False)[0] for text in texts]
    names = ("cigarette", "pistol", "none")

    def call(which: int) -> torch.Tensor:
        with torch.no_grad():
            return tiny.unet(latents, torch.tensor(500), embeds[which]).sample  # type: ignore[no-any-return]

    want = {}
    for name in names:
        with conceptguard.attach(tiny, policies[name]):
            want[name] = [call(0), call(1)]
    with conceptguard.attach(tiny, NONE) as guard:
        order = [("cigarette", 0), ("pistol", 0), ("cigarette", 1), ("pistol", 0), ("cigarette", 0), ("none", 0)]
        for name, which in [*order, *reversed(order)]:
            with guard.using(policies[name]):
                assert torch.equal(call(which), want[name][which]), name


def test_another_policy_in_a_callback(tiny: Any, policies: dict[str, dict[str, Any]]) -> None:
    """A generation inside of another one: each has its own guards, and the outer one goes on with its own. A call of
    the denoiser there is the outer one's."""
    want, inner = wanted(tiny, policies), []
    with conceptguard.attach(tiny, policies["none"]) as guard:

        def look(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if index == 0:
                with guard.using(policies["pistol"]) as other:
                    inner.append((generate(tiny, PROMPT), other.receipt.policy))
            return values

        with guard.using(policies["cigarette"]) as outer:
            assert torch.equal(generate(tiny, PROMPT, callback_on_step_end=look), want["cigarette"])
            assert outer.receipt.policy == "cigarette" and outer.receipt.acts[0].steps == [0, 1]
    assert torch.equal(inner[0][0], want["pistol"]) and inner[0][1] == "pistol"


def test_what_one_has_read_another_has_not(tiny: Any) -> None:
    """An embedding that was encoded under a policy without a reader of prompts is nobody's under one that has it."""
    with offered(Replacing) as replaces, conceptguard.attach(tiny, NONE) as guard:
        embeds = tiny.encode_prompt("a cigarette", "cpu", 1, False)[0]
        with guard.using({"guards": [replaces]}), pytest.raises(Refused, match="an embedding that no guard has read"):
            tiny.unet(torch.zeros(1, 4, 8, 8), 500, encoder_hidden_states=embeds)


def test_what_cannot_be_used_changes_nothing(tiny: Any, policies: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    want = wanted(tiny, policies)
    with conceptguard.attach(tiny, policies["cigarette"]) as guard:
        for bad in ("no-such-policy", {"guards": [{"method": "spmm"}]}, tmp_path):
            with pytest.raises(PolicyError), guard.using(bad):
                generate(tiny, PROMPT)
        nothing = pytest.raises(SessionError, match="nothing was generated under policy 'pistol'")
        with guard.using(policies["pistol"]) as other, nothing:
            assert other.receipt
        assert torch.equal(generate(tiny, PROMPT), want["cigarette"])


def test_detach_waits_for_no_one_and_lets_nobody_draw_unguarded(tiny: Any, policies: dict[str, dict[str, Any]]) -> None:
    guard = conceptguard.attach(tiny, policies["cigarette"])
    with guard.using(policies["pistol"]), pytest.raises(SessionError, match=r"in use in its place \(pistol\)"):
        guard.detach()
    late = contextvars.copy_context()
    with guard.using(policies["pistol"]):
        late = contextvars.copy_context()  # a task that goes on after the `with`
    other = generate(tiny, PROMPT)
    assert not torch.equal(late.run(generate, tiny, PROMPT), other)
    guard.detach()
    with pytest.raises(SessionError, match="not attached any more"), guard.using(policies["pistol"]):
        pass
    with conceptguard.attach(tiny, policies["cigarette"]) as again, again.using(policies["pistol"]):
        pass


def test_a_choice_that_outlives_its_session_is_refused(
    tiny: Any, policies: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the policies used last few are kept; a task whose policy was let go of draws nothing, guarded or not."""
    monkeypatch.setattr(using, "KEPT", 1)
    with conceptguard.attach(tiny, NONE) as guard:
        with guard.using(policies["cigarette"]):
            late = contextvars.copy_context()
            kept = weakref.ref(guard._others._kept.popitem()[1].session)  # type: ignore[union-attr]
        guard._others._kept.clear()  # type: ignore[union-attr]
        late = contextvars.copy_context()
        with guard.using(policies["cigarette"]):
            late = contextvars.copy_context()
            with guard.using(policies["pistol"]):
                assert len(guard._others._kept) == 2, "what is in use is not let go of"  # type: ignore[union-attr]
            kept = weakref.ref(next(iter(guard._others._kept.values())).session)  # type: ignore[union-attr]
        with guard.using(policies["encoder"]):
            pass
        assert len(guard._others._kept) == 1  # type: ignore[union-attr]
        with pytest.raises(SessionError, match="policy 'cigarette' is not attached any more"):
            late.run(generate, tiny, PROMPT)
        del late
        gc.collect()
        assert kept() is None


def test_left_in_another_context_than_entered(tiny: Any, policies: dict[str, dict[str, Any]]) -> None:
    """As dependencies of web frameworks are that yield: the choice was not where the picture was drawn."""
    with conceptguard.attach(tiny, NONE) as guard:

        def dependency() -> Iterator[None]:
            with guard.using(policies["pistol"]):
                yield

        made = dependency()
        contextvars.copy_context().run(next, made)
        with pytest.raises(SessionError, match="left in another context"):
            contextvars.copy_context().run(next, made, None)


def test_a_file_that_was_written_anew_is_read_anew(tiny: Any, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    with offered(Beside) as beside, conceptguard.attach(tiny, NONE) as guard:
        for guards in ([], [beside], []):
            file.write_text(f"{{name: own, guards: {guards}}}")
            with guard.using(file) as other:
                generate(tiny, PROMPT)
                assert len(other.receipt.acts) == len(guards)


def test_receipts_of_tasks(tiny: Any, policies: dict[str, dict[str, Any]]) -> None:
    """Chosen in a task, drawn in a thread that it starts: the task has that generation's receipt, and no other's."""

    async def request(name: str, steps: int) -> bool:
        with guard.using(policies[name]) as other:
            await asyncio.to_thread(generate, tiny, f"{PROMPT} {steps}", num_inference_steps=steps)
            await asyncio.sleep(0.01)
            row = other.receipt.rows[-1].text
        return (other.receipt.policy, other.receipt.steps, row) == (name, steps, f"{PROMPT} {steps}")

    async def all_at_once() -> list[bool]:
        names = [name for name in policies for _ in range(2)]
        return await asyncio.gather(*(request(name, 2 + i) for i, name in enumerate(names)))

    with conceptguard.attach(tiny, policies["none"]) as guard:
        assert all(asyncio.run(all_at_once()))


def test_a_policy_of_ten_is_chosen_in_a_millisecond(tiny: Any, tmp_path: Path) -> None:
    """Once it was used: as a file, by a shipped policy's name the same, as a dict and as a policy."""
    guards = [membrane(tmp_path, tiny, f"thing {i}", seed=i) for i in range(10)]
    policy = {"name": "ten", "guards": guards}
    file = tmp_path / "ten.yaml"
    file.write_text(conceptguard.load_policy(policy).model_dump_json())
    with conceptguard.attach(tiny, NONE) as guard:
        for source in (file, policy, conceptguard.load_policy(policy)):
            times = []
            for _ in range(20):
                begin = time.perf_counter()
                with guard.using(source):
                    times.append(time.perf_counter() - begin)
            assert times[0] > 1e-3 > sorted(times)[5], (type(source), sorted(times)[5])


def test_choosing_waits_for_no_generation(tiny: Any, policies: dict[str, dict[str, Any]]) -> None:
    drawing, chosen = threading.Event(), threading.Event()
    with conceptguard.attach(tiny, NONE) as guard, ThreadPoolExecutor(1) as pool:
        with guard.using(policies["pistol"]):
            pass

        def wait(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            drawing.set()
            assert chosen.wait(30)
            return values

        running = pool.submit(generate, tiny, PROMPT, callback_on_step_end=wait)
        assert drawing.wait(30)
        with guard.using(policies["pistol"]):
            chosen.set()
        running.result()


class _Forbids(Method):
    """Forbids one token, always."""

    name = "forbids"
    needs = "nothing"

    class Settings(conceptguard.Settings):
        token: int

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        decoding.forbid(self, torch.tensor([self.settings.token], device=decoding.scores.device))


def test_language_models() -> None:
    tok = language_tokenizer()
    model = tiny_llama(tok)
    batch = given(tok, "a red apple on a table")
    begin, options = batch["input_ids"].shape[1], {"max_new_tokens": 6, "pad_token_id": tok.pad_token_id}

    def say() -> list[int]:
        return model.generate(**batch, **options)[0, begin:].tolist()  # type: ignore[no-any-return]

    bare = say()
    with offered(_Forbids) as method:
        policies = [{"name": str(i), "guards": [{**method, "token": bare[i]}]} for i in range(2)]
        want = []
        for policy in policies:
            with conceptguard.attach((model, tok), policy):
                want.append(say())
        assert bare not in want and want[0] != want[1]
        with conceptguard.attach((model, tok), policies[0]) as guard:

            def work(number: int) -> bool:
                with guard.using(policies[number % 2]) as other:
                    return say() == want[number % 2] and other.receipt.policy == str(number % 2)

            with ThreadPoolExecutor(4) as pool:
                assert all(pool.map(work, range(12)))
            assert say() == want[0]
            with guard.using(policies[1]), pytest.raises(GuardError, match="called by itself"):
                model(**batch)
