"""What a guard on hidden states costs a generation: terms beside a language model's layers, shut and open, and the
classifier of prompts that shuts and opens them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ..formats.beside import write_beside
from ..plugins import host_for
from ..registry import default_registry, write_artifact
from ..runtime.encodings import ordinary_captions
from ..runtime.lowrank import Factors
from ..sessions.attach import attach

RANK = 64  # of the redirection that ships
STATES = {"closed": 0.0, "open": 1.0}
SHIPPED = "authors-lm/rocr/forget-authors"  # whose classifier is timed
PROMPT = 512  # tokens that it reads
READ = 9  # times, each another prompt


def inside(
    model: Any, tok: Any, tokens: int, rounds: int, clock: Callable[[], float], tick: Callable[[int], None]
) -> Iterator[dict[str, Any]]:
    """A row for a guard whose gate is shut, and one for an open one: random terms beside the last layers of three
    feed-forward blocks, where ``rocr`` has them by default.

    In each round the model answers bare and under both, in turn, greedily and equally long. ratio_bare: time of the
    whole of ``generate`` over the bare model's, a median of the rounds'; ms, ms_bare: of a token
    """
    host: Any = host_for((model, tok))
    given = tok(["The history of the"], return_tensors="pt", return_token_type_ids=False)
    with tempfile.TemporaryDirectory() as folder:
        artifact = _artifact(host, Path(folder))

        def spent(gate: float | None, said: int = tokens) -> float:
            options = {"max_new_tokens": said, "min_new_tokens": said, "do_sample": False}
            if gate is None:
                begin = clock()
                model.generate(**given, **options)
                return clock() - begin
            with attach((model, tok), {"guards": [{"method": "rocr", "artifact": artifact, "gate": gate}]}):
                begin = clock()
                model.generate(**given, **options)
                return clock() - begin

        order: list[float | None] = [None, *STATES.values()]
        for gate in order:  # to warm up
            spent(gate, 2)
        taken: list[dict[float | None, float]] = []
        for turn in range(rounds):
            taken.append({gate: spent(gate) for gate in (order if turn % 2 else order[::-1])})
            tick(1)
    for name, gate in STATES.items():
        yield {
            "inside": name, "rank": RANK, "ratio_bare": median(one[gate] / one[None] for one in taken),
            "ms": 1e3 * median(one[gate] for one in taken) / tokens,
            "ms_bare": 1e3 * median(one[None] for one in taken) / tokens, "rounds": rounds,
        }  # fmt: skip


def reading(model: Any, tok: Any, clock: Callable[[], float], turns: int = 2) -> dict[str, Any]:
    """A row for the classifier of prompts that ships. share_prompt: its time for a prompt of 512 tokens over what the
    model takes to read it and say one; ms, ms_bare: both, medians"""
    text = tok(" ".join(ordinary_captions() * 3)).input_ids
    prompts = [text[begin : begin + PROMPT] for begin in range(READ)]
    bare, read = [], []
    for _ in range(turns):
        begin = clock()
        model.generate(input_ids=torch.tensor(prompts[:1]), max_new_tokens=1, do_sample=False)
        bare.append(clock() - begin)
    with tempfile.TemporaryDirectory() as folder:
        guard = {"method": "rocr", "artifact": _artifact(host_for((model, tok)), Path(folder))}
        with attach((model, tok), {"guards": [guard]}) as session:
            method: Any = session.methods[0]
            within = method.hidden_states(session.host.layers())
            for ids in prompts:
                begin = clock()
                within.opens(ids, tok.decode(ids))
                read.append(clock() - begin)
    ms, ms_bare = 1e3 * median(read), 1e3 * median(bare)
    return {"inside": "classifier", "prompt": PROMPT, "share_prompt": ms / ms_bare, "ms": ms, "ms_bare": ms_bare}


def _artifact(host: Any, folder: Path) -> str:
    """Random terms, as small as what is learnt: they change no more than what is said. Their gate is the classifier of
    what ships, unless a policy fixes it."""
    downs = [name for name in host.text_layers() if name.endswith("mlp.down_proj")]
    layers, random = downs[len(downs) // 8 :][:3], torch.Generator().manual_seed(0)
    terms = {}
    for name in layers:
        out, width = host.layers().shapes()[name]
        down, up = (torch.randn(shape, generator=random) / 100 for shape in ((RANK, width), (out, RANK)))
        terms[name] = Factors(down, up, 1.0)
    tensors, metadata = write_beside(terms)
    shipped = default_registry().load(SHIPPED).tensors()
    tensors |= {name: tensor for name, tensor in shipped.items() if name.startswith("classifier.")}
    fields = {
        "name": "bench", "method": "rocr", "concept": {"name": "bench", "prompts": ["bench"]},
        "base": {"family": "bench", "fingerprint": host.fingerprint()},
    }  # fmt: skip
    return str(write_artifact(folder / "bench" / "rocr" / "bench", fields, tensors, metadata=metadata).folder)
