"""Texts that a training draws from: as the host encodes them, and never more of them in memory than may be."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.advunlearn.method import AdvUnlearn
from conceptguard_plugins.diffusion.advunlearn.train import Training

import conceptguard
from conceptguard.concept import as_concept
from conceptguard.making import encoded_texts
from conceptguard.making.encoded_texts import EncodedTexts
from conceptguard.making.task import Task
from conceptguard.plugins import host_for


def live() -> int:
    """Bytes of all tensors that there are."""
    gc.collect()
    storages = {o.untyped_storage().data_ptr(): o.untyped_storage().nbytes()
                for o in gc.get_objects() if type(o) is torch.Tensor}  # fmt: skip
    return sum(storages.values())


@pytest.fixture(scope="module")
def flow() -> Any:
    return host_for(conceptguard.load_model("emoji-flow"))


def test_texts_are_as_the_host_encodes_them(flow: Any) -> None:
    texts = EncodedTexts(flow, ["a dog", "a red apple on a table", ""])
    found = texts.rows([2, 0, 2])
    for row, text in enumerate(["", "a dog", ""]):
        alone = flow.encode([text])
        assert torch.equal(found.embeds[row], alone.embeds[0]) and torch.equal(found.pooled[row], alone.pooled[0])
        assert found.ids[row] == alone.ids[0]
    found.embeds.zero_()
    assert texts.rows([0]).embeds.any()  # what is given is the caller's own


def test_no_more_is_held_than_may_be(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = flow.encode(["a dog"]).embeds.nbytes
    monkeypatch.setattr(encoded_texts, "HELD", 4 * one)
    texts, before = EncodedTexts(flow, [f"{n} apples" for n in range(24)]), live()
    first = texts.rows([0]).embeds
    for n in range(24):
        texts.rows([n])
    assert 2 * one < live() - before - first.nbytes <= 4 * one
    assert torch.equal(texts.rows([0]).embeds, first)  # read again, to the same last bit


def test_two_thousand_texts_to_keep_fit(flow: Any, tmp_path: Path) -> None:
    settings = AdvUnlearn.MakeSettings(steps=1, warmup=1, views=4, trajectory_steps=2, refresh=1, templates=["{}"])
    kept = [f"{n} apples on a table" for n in range(2000)]
    task = Task(flow, as_concept("pistol"), kept, settings, 0, tmp_path / "pistol", "advunlearn", shown=False)
    before = live()
    training = Training(task)
    training.run([])
    assert len(training.kept) == 2000 and live() - before < 2 * encoded_texts.HELD
