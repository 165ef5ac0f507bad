"""``conceptguard bench logits``: both ways do their work on what is timed."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch
from transformers import NoBadWordsLogitsProcessor

from conceptguard import logits_processor
from conceptguard.benchmarks import logits as logits_bench
from conceptguard.cli import run


@pytest.mark.slow
def test_what_the_peer_forbids_the_bank_forbids(capsys: Any) -> None:
    guarded, tok = logits_bench.phrases(300), logits_bench.tokenizer()
    ids = [tok(f" {phrase}", add_special_tokens=False).input_ids for phrase in guarded]
    peer = NoBadWordsLogitsProcessor(ids, eos_token_id=tok.eos_token_id)
    (ours,) = logits_processor(logits_bench.speaker(), tok, logits_bench.policy(guarded))
    for phrase in ids[:60]:
        said = torch.tensor([[5, *phrase[:-1]]])
        theirs = peer(said, torch.zeros(1, len(tok)))[0] == -torch.inf
        mine = ours(said, torch.zeros(1, len(tok)))[0] == -torch.inf
        assert bool(theirs[phrase[-1]]) and bool((mine | ~theirs).all())
    assert run(["bench", "logits", "--n", "10,100", "--batch", "1,2", "--tokens", "8", "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["phrases"], row["batch"]) for row in rows] == [(10, 1), (10, 2), (100, 1), (100, 2)]
    assert all(row["ms"] > 0 and row["ratio_peer"] > 0 and row["peer"] == "NoBadWords" for row in rows)


@pytest.mark.slow
def test_the_share_of_a_generation() -> None:
    model, tok = logits_bench.speaker(), logits_bench.tokenizer()
    row = logits_bench.share(model, tok, 50, 8, 2, time.perf_counter)
    assert 0 < row["share"] < 1 and 0 < row["share_floor"] < row["share_peer"] < 1 and row["ms"] < row["ms_generate"]
