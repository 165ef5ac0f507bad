"""``conceptguard bench``: what guards cost."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import typer

from .bench_check import check
from .bench_forget import forget
from .bench_many import many
from .bench_speech import speech
from .bench_train import train
from .complete import methods
from .options import DEVICE, JSON, SETTINGS, Usage, settings_of, split

COLUMNS = [
    "n", "open", "ratio_bare", "ratio_peer", "peer", "peer_ratio_bare", "ms", "ms_bare", "attach_seconds", "gates_ms",
    "bytes",
]  # fmt: skip

SOLVING = ["method", "concepts", "peer", "ratio_peer", "ms", "ms_peer", "difference", "bytes", "smaller", "peak_mb"]

ATTACHING = [
    "n", "ratio_peer", "ratio_peer_again", "attach_seconds", "again_seconds", "each_ms", "kept_mb", "peer",
    "attach_seconds_peer", "again_seconds_peer", "kept_mb_peer",
]  # fmt: skip

PER_TOKEN = [
    "model", "phrases", "batch", "ratio_peer", "peer", "ms", "ms_peer", "ms_floor", "share", "share_peer",
    "share_floor", "start_seconds", "start_seconds_peer", "inside", "ratio_bare", "ms_bare",
    "share_prompt",
]  # fmt: skip
ROUNDS = 9  # of whole generations under a guard on hidden states

PER_IMAGE = [
    "method", "open", "acted", "looks", "ratio_bare", "peer", "ratio_peer", "ms", "ms_bare", "ms_peer", "difference",
    "prompt",
]  # fmt: skip


def register(app: typer.Typer) -> None:
    """Put the commands on the program."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure what guards cost.")

    @group.callback()
    def bench() -> None:
        """Measure what guards cost."""

    group.command("overhead")(overhead)
    group.command("check")(check)
    group.command("gates")(gates)
    group.command("logits")(logits)
    group.command("speech")(speech)
    group.command("make")(make)
    group.command("train")(train)
    group.command("forget")(forget)
    group.command("attach")(attach)
    group.command("comfyui")(comfyui)
    group.command("many")(many)
    app.add_typer(group, name="bench")


def overhead(
    n: str = typer.Option("1,10,100,1000", "--n", metavar="N,N", help="Membranes attached."),
    opened: str = typer.Option("0,1,10,100,all", "--open", metavar="K,K", help="Of these open; all is all of them."),
    size: str = typer.Option("emoji-sd", metavar="emoji-sd|sd15", help="sd15 is of that size, with random weights."),
    compiled: bool = typer.Option(False, "--compile", help="Under torch.compile, bare and guarded."),
    repeats: int = typer.Option(15, min=1, help="Rounds; in each, every variant is timed once, in turn."),
    threads: int | None = typer.Option(None, min=1, help="CPU threads; default: torch's own choice."),
    dtype: str | None = typer.Option(None, help="fp32, fp16 or bf16; default: bf16 on a GPU, fp32 elsewhere."),
    clock: str = typer.Option("wall", metavar="wall|cpu", help="cpu: processor time, for a machine that others share."),
    method: str | None = typer.Option(
        None, metavar="M", autocompletion=methods, help="Time whole images under one guard of this method."
    ),
    settings: list[str] | None = SETTINGS,
    device: str | None = DEVICE,
    json: str | None = JSON,
) -> None:
    """Time one denoising step with N rank-1 membranes attached and K of them open, against bare and against peers.

    ratio_bare and ratio_peer are our time over theirs: below 1 is faster. The peers are peft with K active adapters
    (up to 50), and the official SPM way, which rewrites one set of weights for every prompt; that cost is spread over
    25 steps. gates_ms is the cost of all N gates, once per prompt.

    With --method: images of 25 steps under one guard about the suite's first concept, one prompt that names it and one
    that does not; then what the method does its own way, against the published way on the same tensors. --n, --open,
    --compile and --clock do not apply.

    \b
    conceptguard bench overhead
    conceptguard bench overhead --method safree
    conceptguard bench overhead --method probe
    conceptguard bench overhead --size sd15 --n 1,1000 --open 0,1,10 --repeats 5
    """
    import torch

    from ..benchmarks.overhead import measure
    from ..benchmarks.subjects import subject
    from .devices import pick_device, pick_dtype
    from .output import report
    from .progress import progress

    begin = time.perf_counter()
    counts = [_count(text, "--n") for text in split(n)]
    if threads:
        torch.set_num_threads(threads)
    place = pick_device(device)
    kind = dtype or ("bf16" if place.startswith("cuda") else "fp32")
    if method:
        rows = _per_image(method, settings_of(settings), size, place, pick_dtype(kind), repeats)
        made = {"threads": torch.get_num_threads(), "repeats": repeats, "dtype": kind}
        return report("bench overhead", rows, time.perf_counter() - begin, json, place, columns=PER_IMAGE, **made)
    of = subject(size, place, pick_dtype(kind))
    reading = time.process_time if clock == "cpu" else time.perf_counter
    rows = []
    with progress("rounds", repeats * len(counts)) as tick:
        for count in counts:
            opens = sorted({count if text == "all" else _count(text, "--open") for text in split(opened)})
            for row in measure(of, count, [k for k in opens if k <= count], repeats, compiled, reading, tick):
                rows.append({"model": size, "dtype": kind, **row})
    made = {"threads": torch.get_num_threads(), "repeats": repeats, "clock": clock}
    report("bench overhead", rows, time.perf_counter() - begin, json, place, columns=COLUMNS, **made)


def _per_image(
    method: str, settings: dict[str, Any], size: str, device: str, dtype: Any, repeats: int
) -> list[dict[str, Any]]:
    from .. import plugins
    from ..benchmarks.images import against_peers, measure
    from ..benchmarks.subjects import subject
    from ..errors import ConceptGuardError
    from ..measuring.cases import policy_for
    from ..measuring.suite import load_suite
    from .progress import progress

    if plugins.method(method).needs == "artifact" and size != "emoji-sd":
        raise ConceptGuardError(f"--method {method} acts by an artifact, and there is none for {size}: use emoji-sd")
    suite = load_suite("emoji-sd")
    concept, other = suite.concepts[0], next(o.name for o in suite.objects if o.name not in suite.concepts)
    policy = policy_for(suite, method, [concept], settings=settings, artifacts=size == "emoji-sd")
    pipe = subject(size, device, dtype, text_layers=12).pipe
    with progress("rounds", 2 * repeats + len(plugins.method(method).peers())) as tick:
        rows = measure(pipe, policy, [f"a {concept}, noto style", f"a {other}, noto style"], repeats, tick=tick)
        rows += against_peers(method, repeats, tick)
    return [{"model": size, "method": method, **row} for row in rows]


def gates(
    n: str = typer.Option("1000", "--n", metavar="N,N", help="Concepts, one for each of so many words."),
    size: str = typer.Option("emoji-sd", metavar="emoji-sd|sd15", help="sd15 is 768 wide, with random weights."),
    repeats: int = typer.Option(15, min=1, help="Times that the gates of eight prompts are computed."),
    device: str | None = DEVICE,
    json: str | None = JSON,
) -> None:
    """Time the gates of N concepts in one policy, and count those that open, or stay shut, wrongly.

    Judged on texts kept apart from calibration. The row "shipped" is the registry's membranes of emoji-sd, on the
    suite's judge prompts and 100 captions; the others are concepts made of words of the tokenizer's vocabulary, most of
    which the small encoder of emoji-sd never learned, and calibrated on ordinary captions alone.

    \b
    conceptguard bench gates
    conceptguard bench gates --size sd15 --n 1000
    """
    from ..benchmarks.gates import measure, shipped, vocabulary, words_of
    from ..benchmarks.subjects import subject
    from ..measuring.suite import load_suite
    from ..plugins import host_for
    from .devices import pick_device, pick_dtype
    from .output import report
    from .progress import progress

    begin = time.perf_counter()
    counts = [_count(text, "--n") for text in split(n)]
    place = pick_device(device)
    pipe = subject(size, place, pick_dtype("fp32")).pipe
    encode = host_for(pipe).encode
    rows: list[dict[str, Any]] = []
    with progress("sets", len(counts) + 1) as tick:
        if size == "emoji-sd":
            rows.append(measure("shipped", shipped(load_suite(size)), encode, repeats, time.perf_counter))
        tick(1)
        for count in counts:
            subjects = vocabulary(words_of(pipe.tokenizer.get_vocab(), count), encode)
            rows.append(measure("vocabulary", subjects, encode, repeats, time.perf_counter))
            tick(1)
    report("bench gates", [{"model": size, **row} for row in rows], time.perf_counter() - begin, json, place)


def make(
    concepts: str = typer.Option("1,10,100,1000", metavar="N,N", help="Concepts that are solved at once."),
    method: list[str] | None = typer.Option(
        None, metavar="M", help="uce, rece or nullspace; may be repeated. Default: all."
    ),
    repeats: int = typer.Option(1, min=1, help="Rounds; in each, ours and the peer are timed in turn."),
    threads: int | None = typer.Option(None, min=1, help="CPU threads; default: torch's own choice."),
    clock: str = typer.Option("wall", metavar="wall|cpu", help="cpu: processor time, for a machine that others share."),
    device: str | None = DEVICE,
    json: str | None = JSON,
) -> None:
    """Time solving an edit of all 32 layers of Stable Diffusion 1.5, against the published arithmetic.

    ratio_peer is our time over the peer's on the same tensors, which are random: below 1 is faster. The peers are the
    authors' loops, written out from their papers, up to 100 concepts. smaller is how many times smaller an artifact is
    than the edited weights that they ship; peak_mb the most memory that this process ever had.

    \b
    conceptguard bench make
    conceptguard bench make --concepts 1,100 --method uce --json -
    """
    import torch

    from ..benchmarks.making import METHODS, measure
    from ..errors import ConceptGuardError
    from .devices import pick_device
    from .output import report
    from .progress import progress

    begin = time.perf_counter()
    counts, names = [_count(text, "--concepts") for text in split(concepts)], method or list(METHODS)
    for name in names:
        if name not in METHODS:
            raise ConceptGuardError(f"--method {name}: there is a peer for {' and '.join(METHODS)}")
    if threads:
        torch.set_num_threads(threads)
    place = pick_device(device)
    reading = time.process_time if clock == "cpu" else time.perf_counter
    rows = []
    with progress("rows", len(counts) * len(names)) as tick:
        for name in names:
            for count in counts:
                rows.append({**measure(name, count, place, repeats, reading), "peak_mb": _peak()})
                tick(1)
    made = {"threads": torch.get_num_threads(), "repeats": repeats, "clock": clock}
    report("bench make", rows, time.perf_counter() - begin, json, place, columns=SOLVING, **made)


def attach(
    n: str = typer.Option("1,100,1000", "--n", metavar="N,N", help="Membranes in the policy, at least one."),
    peer: Path | None = typer.Option(
        None, metavar="PYTHON", help="The Python of an environment with another build of conceptguard, timed in turn."
    ),
    repeats: int = typer.Option(1, min=1, help="Processes of each build, in turn."),
    clock: str = typer.Option("wall", metavar="wall|cpu", help="cpu: processor time, for a machine that others share."),
    json: str | None = JSON,
) -> None:
    """Time attaching a policy of N membranes to emoji-sd, from their files to guards at work.

    attach_seconds is of a process that read none of them before, again_seconds of one that did: files are read,
    hashed and checked again, texts are not. each_ms is the latter for one guard, kept_mb the memory that the first
    attachment keeps. One thread. The membranes are random, as large as the shipped ones, each about words of its own.
    ratio_peer and ratio_peer_again are our time over the other build's: below 1 is faster.

    \b
    conceptguard bench attach
    conceptguard bench attach --n 1000 --peer ~/older/.venv/bin/python --repeats 3 --clock cpu
    """
    import tempfile

    from ..benchmarks.attaching import measure, prepared, write
    from .output import report
    from .progress import progress

    begin = time.perf_counter()
    counts = [_count(text, "--n") for text in split(n)]
    if 0 in counts:
        raise Usage("--n 0: a policy of no guards attaches nothing; write 1 or more")
    model = "emoji-sd"
    pipe, fingerprint = prepared(model)
    other = str(peer.expanduser().absolute()) if peer else None
    rows = []
    with tempfile.TemporaryDirectory(prefix="conceptguard-bench-") as folder:
        with progress("membranes", max(counts)) as tick:
            write(Path(folder), pipe, model, fingerprint, max(counts), tick)
        with progress("processes", len(counts) * repeats * (2 if other else 1)) as tick:
            for count in counts:
                rows.append({"model": model, **measure(Path(folder), model, count, repeats, other, clock, tick)})
    made = {"threads": 1, "repeats": repeats, "clock": clock}
    report("bench attach", rows, time.perf_counter() - begin, json, "cpu", columns=ATTACHING, **made)


def _peak() -> int | None:
    """Megabytes that this process had at most; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10))


def logits(
    n: str = typer.Option("100,10000,100000", "--n", metavar="N,N", help="Phrases in the bank."),
    batch: str = typer.Option("1,32", metavar="N,N", help="Rows of a batch."),
    tokens: int = typer.Option(64, min=2, help="Tokens that every text has."),
    model: str | None = typer.Option(
        None, metavar="MODEL", help="Time whole generations too: a language model, or 1b for one with random weights."
    ),
    hidden: bool = typer.Option(False, help="With --model: also a guard on hidden states, shut and open."),
    json: str | None = JSON,
) -> None:
    """Time what a bank of phrases costs a token, beside NoBadWords of transformers on the same phrases and texts.

    ratio_peer is our time over theirs: below 1 is faster. A vocabulary of 32,000 tokens, one thread, processor time.
    NoBadWords forbids one spelling of a phrase; the bank all that ``phrases`` finds. ms_floor is what a processor takes
    that only reads the last tokens and closes those that are whole phrases: no way in Python is below it.
    start_seconds is from the phrases to the first answer. With --model more rows: share, the part of a generation that
    is the bank's (of 64 tokens, with 1b of 8), the peer's, and that processor's which does as good as nothing. With
    --hidden two rows of a guard on hidden states, rank 64 beside three layers: ratio_bare is all of generate over the
    bare model's, with its gate shut and open; and one of its classifier: share_prompt is its time for a prompt of 512
    tokens over the model's.

    \b
    conceptguard bench logits
    conceptguard bench logits --n 100 --batch 1 --model 1b --hidden
    conceptguard bench logits --n 10000 --batch 1 --model authors-lm
    """
    import torch

    from ..benchmarks.inside import inside, reading
    from ..benchmarks.logits import per_token, share, speaker, tokenizer
    from ..hosts.load import load_model
    from .output import report
    from .progress import progress

    if hidden and not model:
        raise Usage("--hidden is of whole generations: add --model")
    begin = time.perf_counter()
    counts, batches = (
        [_count(text, option) for text in split(given)] for given, option in ((n, "--n"), (batch, "--batch"))
    )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    try:
        with progress("vocabulary and banks", 1 + len(counts) * (2 if model else 1) + (ROUNDS + 1) * hidden) as tick:
            tokenizer()
            tick(1)
            for count in counts:
                rows += per_token(count, batches, tokens, time.thread_time)
                tick(1)
            if model:
                spoken, tok = (speaker("1b"), tokenizer()) if model == "1b" else load_model(model)
                said = 8 if model == "1b" else 64
                for count in counts:
                    for size in batches:
                        rows.append({"model": model, **share(spoken, tok, count, said, size, time.thread_time)})
                    tick(1)
                if hidden:
                    rows += (
                        {"model": model, **row} for row in inside(spoken, tok, said, ROUNDS, time.thread_time, tick)
                    )
                    rows.append({"model": model, **reading(spoken, tok, time.thread_time)})
                    tick(1)
    finally:
        torch.set_num_threads(before)
    report("bench logits", rows, time.perf_counter() - begin, json, "cpu", columns=PER_TOKEN, tokens=tokens)


def comfyui(
    path: Path = typer.Argument(..., envvar="COMFYUI_PATH", help="ComfyUI's folder, with main.py in it."),
    size: str = typer.Option("emoji-sd", metavar="emoji-sd|sd15", help="sd15 is of that size, with random weights."),
    n: int = typer.Option(100, min=1, help="Membranes in the policy."),
    steps: int = typer.Option(20, min=1, help="Of each sampling."),
    repeats: int = typer.Option(7, min=1, help="Rounds; in each, every variant is timed once, in turn."),
    clock: str = typer.Option("wall", metavar="wall|cpu", help="cpu: processor time, for a machine that others share."),
    json: str | None = JSON,
) -> None:
    """Time whole samplings inside ComfyUI, with its own Python: bare, guarded with none and one of N open, and peers.

    ratio_bare is the time over the bare MODEL's; "bare again" shows what the machine itself varies by. The peers are
    the same one membrane as a LoRA of ComfyUI's own, in the weights (add_patches), or as a hook on the conditioning.

    \b
    conceptguard bench comfyui ~/ComfyUI
    conceptguard bench comfyui ~/ComfyUI --size sd15 --steps 4 --repeats 3
    """
    from ..benchmarks.comfyui import measure
    from ..hosts.comfyui.core import import_core
    from .output import report
    from .progress import progress

    begin = time.perf_counter()
    import_core(path)
    with progress("rounds", repeats) as tick:
        rows = measure(size, n, steps, repeats, time.process_time if clock == "cpu" else time.perf_counter, tick)
    report("bench comfyui", rows, time.perf_counter() - begin, json, size=size, repeats=repeats, clock=clock)


def _count(text: str, option: str) -> int:
    if not text.isdigit():
        raise Usage(f"{option} {text}: write whole numbers, separated by commas")
    return int(text)
