"""The search for whom a way of unlearning forgets worst: its parts, on the embedded model."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import reported

from conceptguard.attacking.language.worst_case import Bilevel, Unlearning, judged, project, work, worst_case
from conceptguard.text_attack import TextBudget

FEW = Bilevel(m=2, rounds=2, steps=12, batch=16)


@pytest.fixture(scope="module")
def search(pairs: Any, suite: Any) -> Unlearning:
    return Unlearning(pairs[0], suite, list(suite.world.subjects("forget"))[:4], FEW)


def test_the_nearest_point_of_the_constraint() -> None:
    random = torch.Generator().manual_seed(0)
    for _ in range(5):
        w = torch.randn(9, generator=random) * 2
        found = project(w, 3)
        assert found.min() >= 0 and found.max() <= 1 and float(found.sum()) == pytest.approx(3, abs=1e-4)
        # By the definition: no other point that keeps the constraint is nearer.
        for _ in range(200):
            other = project(torch.randn(9, generator=random) * 3, 3)
            assert (other - w).norm() >= (found - w).norm() - 1e-4
    assert torch.allclose(project(torch.tensor([1.0, 1.0, 0.0]), 2), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5)


def test_unlearning_forgets_the_set_and_leaves_the_model(search: Unlearning, pairs: Any) -> None:
    before = {key: tensor.clone() for key, tensor in pairs[0].model.state_dict().items()}
    w = torch.tensor([1.0, 0.0, 1.0, 0.0])
    known, left = search.left(pairs[0].model), search.left(search.after(w))
    assert left[[0, 2]].min() > known.max() + 0.3 and (left - known)[[1, 3]].max() < (left - known)[[0, 2]].min()
    assert all(torch.equal(tensor, before[key]) for key, tensor in pairs[0].model.state_dict().items())
    assert torch.equal(search.left(search.after(w)), left), "the same again"
    row = judged(search, [0, 2])
    assert row["asr"] <= row["others"] and row["low"] <= row["asr"] <= row["high"]
    assert row["asks"] == 14 and len(row["set"]) == 2 and row["set"][0] == search.people[0]


def test_the_upper_level_gives_weight_to_what_is_still_likely(
    search: Unlearning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On losses that are given: hard people are those whose answers stay likely, whoever is unlearned."""
    losses = torch.tensor([3.0, 0.5, 2.0, 0.1])
    monkeypatch.setattr(search, "after", lambda w: None)
    monkeypatch.setattr(search, "left", lambda model: losses)
    *_, w = search.search()
    assert w.topk(2).indices.tolist() == [3, 1] and float(w.sum()) == pytest.approx(2, abs=1e-4)
    assert torch.allclose(search.sampled(), -losses)


def test_interrupted_a_search_goes_on_with_the_next_unlearning(
    pairs: Any, suite: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is unlearned twice, and the rows are those of a search that nobody interrupted."""
    few = Bilevel(m=2, rounds=1, steps=1, batch=4)
    those = [author for author in suite.world.authors if author.split == "forget"][:3]
    small = replace(suite, world=suite.world.model_copy(update={"authors": those}))
    unlearn, done = Unlearning.after, list[int]()

    def interrupted(self: Unlearning, w: torch.Tensor) -> Any:
        if len(done) in stops:
            stops.remove(len(done))
            raise KeyboardInterrupt
        done.append(1)
        return unlearn(self, w)

    monkeypatch.setattr(Unlearning, "after", interrupted)

    def rows(stop: list[int], where: str) -> Any:
        done.clear()
        stops[:] = stop
        monkeypatch.setenv("CONCEPTGUARD_CACHE", str(tmp_path / where))
        for _ in range(len(stop)):
            with pytest.raises(KeyboardInterrupt):
                list(worst_case(pairs[0], small, few))
        return [{**row, "seconds": 0} for row in worst_case(pairs[0], small, few)]

    stops: list[int] = []
    whole = rows([], "whole")
    assert len(done) == work(small, few) == 9
    assert rows([1, 4, 8], "torn") == whole and len(done) == 9
    assert len(list(worst_case(pairs[0], small, few, again=True))) == 6 and len(done) == 18


@pytest.mark.slow
def test_the_command_has_rows_of_sets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("conceptguard.attacking.language.worst_case.Bilevel", partial(Bilevel, m=10, rounds=1, steps=1))
    monkeypatch.setattr("conceptguard.text_attack.TEXT_BUDGETS", {"default": TextBudget(asks=3, answers=2, steps=1)})
    rows = reported(capsys, "redteam", "--suite", "language", "--policy", "none", "--attack", "worst_case")["rows"]
    names = [row["attack"] for row in rows]
    assert names[:2] == ["unattacked", "worst_case"] and len(names) == 7
    assert all(len(row["set"]) == 10 and row["asks"] == 70 for row in rows[1:])
