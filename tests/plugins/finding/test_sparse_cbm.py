"""Few words that tell classes apart: those that do are kept, a picture's own class is its positive pair."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conceptguard_plugins.finding.sparse_cbm import choose, class_rows, gumbel_loss, search_matrix
from small_planted import planted, search

from conceptguard.errors import PolicyError
from conceptguard.finder import PictureSet
from conceptguard.finding.planted import FIRST
from conceptguard.plugins import offers


def made() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """60 rows of 20 words, of which two tell three classes apart."""
    random = torch.Generator().manual_seed(0)
    wanted = torch.arange(60) % 3
    rows = torch.randn(60, 20, generator=random)
    for k in range(2):
        rows[wanted == k, k] += 4
    rows = (rows - rows.mean(0)) / rows.std(0)
    return rows, wanted, class_rows(rows, wanted, 3)


def test_the_words_that_tell_classes_apart_are_kept() -> None:
    rows, wanted, of_class = made()
    gates = choose(rows, wanted, of_class, 300, 0.05, 3.0, torch.Generator().manual_seed(0))
    assert set(gates.topk(2).indices.tolist()) == {0, 1}
    assert int((gates > 0.5).sum()) <= 6, "few"
    right = search_matrix(rows, of_class) == wanted
    assert float(right.float().mean()) > 0.8, "concept matrix search, without training"


def test_the_loss_knows_whose_pair_is_whose() -> None:
    """The published one does not: it is the same in whatever order the rows are."""
    rows, wanted, of_class = made()
    open_ = torch.ones(20)
    assert float(gumbel_loss(rows, wanted, of_class, open_)) < float(
        gumbel_loss(rows, (wanted + 1) % 3, of_class, open_)
    )


def find(**more: Any) -> Any:
    return offers("finders")["sparse_cbm"].find(search("sparse_cbm", **more))


def test_as_a_finder() -> None:
    """Pictures are guarded where the first object is: the words that are kept say so better than as many at random."""
    found = find()
    assert 1 <= len(found.rows) <= 32 and all(row["about"] in ("guarded", "kept") for row in found.rows)
    assert found.figures["accuracy"] >= found.figures["accuracy_random"]
    assert FIRST in [row["concept"] for row in found.rows]


def test_what_is_asked_wrongly() -> None:
    with pytest.raises(PolicyError, match="chooses among words"):
        find(words=False)
    unsorted = PictureSet(planted().pictures.pixels, planted().pictures.names, [""] * 48)
    with pytest.raises(PolicyError, match="give pictures in folders of their classes"):
        find(pictures=unsorted)
