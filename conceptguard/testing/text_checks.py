"""The promises, asked of a method for language models."""

from __future__ import annotations

import copy
import gc
import weakref
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from .case import NotApplicable, demand
from .closed import demand_guard_error
from .kit_guards import BesideText, FailingText, offered, raising
from .text_bench import TextBench, Texts
from .traces import Snapshot, differences, snapshot

_WAYS: dict[str, dict[str, Any]] = {
    "greedily": {},
    "sampled": {"do_sample": True},
    "by beam search": {"num_beams": 3, "early_stopping": True},
    "several at once": {"num_beams": 2, "num_return_sequences": 2, "early_stopping": True},
}


def it_acts(bench: TextBench) -> None:
    """On the prompt that opens it, the guard changes or refuses the text, attached and as a logits processor."""
    opens = [bench.case.opens]
    bare = bench.bare(opens)
    with bench.attached():
        demand(bench.attempt(opens) != bare, f"{opens[0]!r} gives what it gives unguarded")
    if not bench.attached_only:
        got = bench.attempt(opens, logits_processor=bench.processor())
        demand(got != bare, f"{opens[0]!r} gives what it gives unguarded through a logits processor")


def no_guard_tax(bench: TextBench) -> None:
    """Unrelated prompts give the unguarded tokens in every way of decoding, also after one that opened."""
    unrelated = list(bench.case.unrelated)
    for way, options in _WAYS.items():
        bare = bench.bare(unrelated, **options)
        with bench.attached():
            demand(bench.attempt(unrelated, **options) == bare, f"the unrelated prompts {unrelated!r} change, {way}")
            bench.attempt([bench.case.opens])
            after = bench.attempt(unrelated, **options)
            demand(after == bare, f"after {bench.case.opens!r} the unrelated prompts change, {way}")
        if not bench.attached_only:
            got = bench.attempt(unrelated, logits_processor=bench.processor(), **options)
            demand(got == bare, f"the unrelated prompts change through a logits processor, {way}")


def _snapshot(bench: TextBench) -> Snapshot:
    model, tokenizer = bench.pipe
    return snapshot(SimpleNamespace(components={"model": model, "tokenizer": tokenizer}))


def _demand_no_trace(bench: TextBench, before: Snapshot, what: list[weakref.ref[Any]], when: str) -> None:
    gc.collect()
    left = differences(before, _snapshot(bench))
    demand(not left, f"{when} these are not what they were: {', '.join(left[:4])} ({len(left)} in all)")
    alive = [ref() for ref in what if ref() is not None]
    demand(not alive, f"{when} something still refers to {alive[:1]}")


def no_trace(bench: TextBench) -> None:
    """After detach, or when a processor is gone: the same weights, hooks and classes, and nobody remembers it."""
    bench.bare(bench.case.unrelated)
    before = _snapshot(bench)
    with bench.attached() as session:
        bench.attempt([bench.case.opens])
        what = [weakref.ref(thing) for thing in (session, *session.methods)]
        during = [key for key in differences(before, _snapshot(bench)) if key.startswith("weight ")]
        demand(not during, f"base weights are written to: {', '.join(during[:4])}")
    del session
    _demand_no_trace(bench, before, what, "after detach")
    if not bench.attached_only:
        processor = bench.processor()
        bench.attempt([bench.case.opens], logits_processor=processor)
        what = [weakref.ref(thing) for thing in (processor.session, *processor.session.methods)]
        del processor
        _demand_no_trace(bench, before, what, "after the processor")


class _Mine(Exception):
    pass


def no_trace_after_error(bench: TextBench) -> None:
    """An exception in mid-generation leaves nothing that the next text would feel, and after detach nothing at all."""
    bare = bench.bare(bench.case.unrelated)
    before = _snapshot(bench)

    def stop(ids: Any, scores: Any, **_: Any) -> Any:
        raise _Mine

    with bench.attached() as session:
        try:
            bench.attempt([bench.case.opens], stopping_criteria=[stop])
        except _Mine:
            again = bench.attempt(bench.case.unrelated)
            demand(again == bare, "after an exception in mid-generation the unrelated prompts change")
        what = [weakref.ref(thing) for thing in (session, *session.methods)]
    del session
    _demand_no_trace(bench, before, what, "after an exception and detach")


def guard_that_raises(bench: TextBench) -> None:
    """An exception in any hook of the method becomes a GuardError, and nothing is said."""
    if not bench.hooks:
        raise NotApplicable("no hook for text is implemented")
    for hook in bench.hooks:
        with raising(bench.method, hook):
            demand_guard_error(partial(_guarded, bench, bench.case.guard), bench.method.name, f"{hook} raises")
            if not bench.attached_only:
                run = partial(_processed, bench, bench.case.guard)
                demand_guard_error(run, bench.method.name, f"{hook} raises in a logits processor")


def guard_beside_that_raises(bench: TextBench) -> None:
    """The method does not hide another guard's failure, before it or after it in the policy."""
    bare = bench.bare(bench.case.unrelated)
    with offered(FailingText) as failing:
        for guards in ((bench.case.guard, failing), (failing, bench.case.guard)):
            demand_guard_error(partial(_guarded, bench, *guards), FailingText.name, "another guard raises")
    with bench.attached():
        demand(bench.attempt(bench.case.unrelated) == bare, "after another guard's failure unrelated prompts change")


def _guarded(bench: TextBench, *guards: Any) -> None:
    with bench.attached(*guards):
        bench.generate(bench.pipe, [bench.case.unrelated[0]])


def _processed(bench: TextBench, *guards: Any) -> None:
    bench.generate(bench.pipe, [bench.case.unrelated[0]], logits_processor=bench.processor(*guards))


def _demand_rows(bench: TextBench, options: dict[str, Any], way: str) -> None:
    """Row i of a batch, left-padded, is what its prompt gives alone."""
    first, second = bench.case.unrelated
    prompts = [first, bench.case.opens, second]
    bare = bench.bare(prompts, **options)
    with bench.attached():
        alone = [bench.attempt([prompt], **options) for prompt in prompts]
        got = bench.attempt(prompts, **options)
    if any(text is None for text in alone):
        demand(got is None, f"{way}: a prompt that is refused alone passes in a batch")
        return
    assert got is not None
    each = len(got) // len(prompts)
    for i, one in enumerate(alone):
        mine = got[i * each : (i + 1) * each]
        if i == 1:
            demand(mine == one, f"{way}: row {i} differs from what it gets alone")
        else:
            demand(mine == bare[i * each : (i + 1) * each], f"{way}: row {i} is unrelated, and another row changes it")


def rows_are_separate(bench: TextBench) -> None:
    """A batch in which one prompt opens the guard."""
    _demand_rows(bench, {}, "a batch")


def beams_are_separate(bench: TextBench) -> None:
    """The same under beam search, where rows change places, with several texts of each prompt."""
    # Without early stopping transformers itself lets the rows of a batch decide how long each is searched.
    _demand_rows(bench, {"num_beams": 3, "num_return_sequences": 2, "early_stopping": True}, "beam search")


def another_batch(bench: TextBench) -> None:
    """One processor for batches of other sizes and contents, one after the other, is as good as new each time."""
    if bench.attached_only:
        raise NotApplicable("the method takes text back or acts inside, so that there is no logits processor")
    first, second = bench.case.unrelated
    used = bench.processor()
    for prompts in ([first, bench.case.opens, second], [bench.case.opens], [second, first], [bench.case.opens, first]):
        fresh = bench.attempt(prompts, logits_processor=bench.processor())
        demand(bench.attempt(prompts, logits_processor=used) == fresh, f"a processor used before changes {prompts!r}")


def any_order(bench: TextBench) -> None:
    """Beside another guard, before or after it: the same text."""
    mine, opens = bench.case.guard, [bench.case.opens]
    bare = bench.bare(opens)
    with offered(BesideText) as beside:
        results: list[Texts | None] = []
        for guards in ((mine, beside), (beside, mine)):
            with bench.attached(*guards):
                results.append(bench.attempt(opens))
    demand(results[0] == results[1], "the order of two guards in the policy changes the text, undeclared")
    demand(results[0] != bare, "beside another guard the guard does not act")


def twice(bench: TextBench) -> None:
    """The guard twice in one policy runs twice, without an error, and unrelated prompts do not feel it."""
    bare = bench.bare(bench.case.unrelated)
    with bench.attached(bench.case.guard, bench.case.guard) as session:
        demand(bench.attempt(bench.case.unrelated) == bare, "the guard twice in one policy changes unrelated prompts")
        demand(len(session.receipt.acts) == 2, "two guards in the policy, another number in the receipt")


def bf16(bench: TextBench) -> None:
    """A model in bfloat16."""
    model = copy.deepcopy(bench.model).to(torch.bfloat16)
    half = TextBench(bench.case)
    half.pipe = (model, bench.pipe[1])
    bare = half.bare(bench.case.unrelated)
    with half.attached():
        demand(half.attempt(bench.case.unrelated) == bare, "in bfloat16 the unrelated prompts change")
        half.attempt([bench.case.opens])


def _same(bench: TextBench, way: str, **options: Any) -> None:
    """Another way to the same greedy text gives the same guarded text."""
    for prompt in (bench.case.unrelated[0], bench.case.opens):
        with bench.attached():
            expected = bench.attempt([prompt])
            demand(bench.attempt([prompt], **options) == expected, f"{way} gives another text of {prompt!r}")


def static_cache(bench: TextBench) -> None:
    """A static key-value cache."""
    if bench.model.config.is_encoder_decoder:
        raise NotApplicable("encoder-decoder models are tested without")
    # Releases of transformers that would compile for it can be told not to.
    plainly = {"disable_compile": True} if hasattr(bench.model.generation_config, "disable_compile") else {}
    _same(bench, "a static cache", cache_implementation="static", **plainly)


class _Streamer:
    def __init__(self) -> None:
        self.ids: list[int] = []
        self.ended = False

    def put(self, value: Any) -> None:
        """Prompt or tokens."""
        self.ids += value.flatten().tolist()

    def end(self) -> None:
        """No more."""
        self.ended = True


def streaming(bench: TextBench) -> None:
    """What is streamed is what is returned, so that nothing taken back was streamed before."""
    for prompt in (bench.case.unrelated[0], bench.case.opens):
        streamer = _Streamer()
        with bench.attached():
            got = bench.attempt([prompt], streamer=streamer)
        if got is not None:
            begin = len(streamer.ids) - len(got[0])
            tails = (streamer.ids[begin:], streamer.ids[begin - 1 : -1])  # with or without an end token
            demand(got[0] in tails and streamer.ended, f"of {prompt!r} something else is streamed than returned")


def assisted(bench: TextBench) -> None:
    """A small model drafts, the large one decides: here the model is its own assistant."""
    if bench.model.config.is_encoder_decoder:
        raise NotApplicable("encoder-decoder models are tested without")
    _same(bench, "assisted generation", assistant_model=copy.deepcopy(bench.model))


def receipt_is_true(bench: TextBench) -> None:
    """Where the text leaves the unguarded one, the receipt names the token that was not to be said; and what it says
    was forbidden there was not said."""
    opens = [bench.case.opens]
    (bare,) = bench.bare(opens)
    with bench.attached() as session:
        got = bench.attempt(opens)
        if got is None:
            raise NotApplicable("refused: the exception tells")
        act, decode = session.receipt.acts[0], session.host.vocabulary.decode
    (said,) = got
    where = next((at for at, pair in enumerate(zip(said, bare)) if pair[0] != pair[1]), min(len(said), len(bare)))
    back = [taken.position for taken in act.taken_back]
    for touch in act.touched:
        if touch.change == "forbidden" and touch.position < len(said) and not any(b <= touch.position for b in back):
            token = decode([said[touch.position]])
            demand(token not in touch.tokens, f"token {touch.position} is said, and the receipt has it forbidden")
    if act.steps and any(act.gates):
        return  # it acts inside of the model, in every step, and not on single tokens
    told = [t for t in act.touched if t.position == where]
    expected = decode([bare[where]]) if where < len(bare) else None
    named = any(t.change == "forced" or expected is None or expected in t.tokens for t in told) or where in back
    demand(named, f"at token {where} the guard turned from {expected!r}, and the receipt does not name it")


def receipt_tells_all(bench: TextBench) -> None:
    """A text that is the unguarded one has nothing told of it; one that is not, has."""
    for prompt in (bench.case.unrelated[0], bench.case.opens):
        bare = bench.bare([prompt])
        with bench.attached() as session:
            got = bench.attempt([prompt])
            if got is None:
                continue
            receipt = session.receipt
        act = receipt.acts[0]
        tells = bool(act.touched or act.taken_back or (act.steps and any(act.gates)))
        demand(receipt.steps > 0, "the receipt says that no token was looked at")
        read = prompt.replace(bench.pipe[1].image_token, "") if bench.case.picture is not None else prompt
        demand([row.text for row in receipt.rows] == [read], f"the receipt has another prompt than {read!r}")
        if got != bare:
            demand(tells, f"{prompt!r}: the guard acted, and the receipt does not tell; see Decoding's methods")
