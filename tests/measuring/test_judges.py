"""Two judges of two kinds: each is read by what its folder says, and both stand in every row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conceptguard.errors import RegistryError
from conceptguard.measuring.cases import Case
from conceptguard.measuring.evaluate import mean, row
from conceptguard.measuring.judge import NONE, Judge, JudgeResult
from conceptguard.measuring.judges import Judges, check_judges, load_judge, load_judges
from conceptguard.measuring.retrieval import RetrievalJudge, fit
from conceptguard.measuring.samples import Pictures
from conceptguard.measuring.suite import Sample, load_suite
from conceptguard.policy import Policy
from conceptguard.registry import shipped_folder


def blocks(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures of an upright and of a lying bar, somewhere, [2 n, 3, 64, 64], and which they show."""
    gen = torch.Generator().manual_seed(seed)
    images, labels = torch.ones(2 * n, 3, 64, 64), torch.arange(2).repeat(n)
    for image, label in zip(images, labels.tolist()):
        x, y = (10 + 24 * torch.rand(2, generator=gen)).int().tolist()
        wide, high = (40, 8) if label else (8, 40)
        image[:, y // (1 if label else 3) :, x // (3 if label else 1) :][:, :high, :wide] = 0.2
    return images, labels


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a judge that retrieves."""
    folder = tmp_path_factory.mktemp("judges") / "bars"
    images, labels = blocks(20, 0)
    fit(images, labels, torch.full_like(labels, -1), ["upright", "lying"], ["any"], kept=8, rank=20).save(folder)
    return folder


def test_nearest_neighbours_tell_pictures_that_they_never_saw(retrieval: Path) -> None:
    images, labels = blocks(20, 1)
    named = RetrievalJudge.load(retrieval).judge(images).objects
    assert sum(name == ("upright", "lying")[i] for name, i in zip(named, labels.tolist())) >= 36


def test_what_shows_none_of_them_is_many_things() -> None:
    """All of it is kept, however few references of an object are; and nothing of it is divided out."""
    images, labels = blocks(20, 0)
    gen = torch.Generator().manual_seed(2)
    spots = torch.rand(60, 3, 8, 8, generator=gen).repeat_interleave(8, 2).repeat_interleave(8, 3)
    labels = torch.cat([labels, torch.full((40,), 2)])
    judge = fit(
        torch.cat([images, spots[:40]]), labels, torch.full_like(labels, -1), ["upright", "lying", NONE], ["any"], 8, 20
    )
    assert [int((judge.tensors["labels"] == i).sum()) for i in range(3)] == [8, 8, 40]
    assert judge.judge(spots[40:]).objects.count(NONE) >= 18
    assert judge.judge(blocks(10, 3)[0]).objects.count(NONE) <= 2


def test_a_folder_says_which_kind_of_judge_it_holds(retrieval: Path, tmp_path: Path) -> None:
    assert isinstance(load_judge(str(retrieval)), RetrievalJudge)
    config = json.loads((shipped_folder() / "models" / "emoji-judge" / "config.json").read_text())
    # As judges of earlier releases have it: neither a kind nor a temperature.
    old = tmp_path / "old"
    shutil.copytree(shipped_folder() / "models" / "emoji-judge", old)
    (old / "config.json").write_text(json.dumps({k: config[k] for k in ("objects", "styles", "size", "width")}))
    found = load_judge(str(old))
    assert isinstance(found, Judge) and found.temperature == 1.0 and found.objects == config["objects"]
    (old / "config.json").write_text(json.dumps({**config, "kind": "oracle"}))
    with pytest.raises(RegistryError, match="kind 'oracle' is none of classifier, retrieval"):
        load_judge(str(old))


def test_a_folder_of_weights_that_is_called_like_the_model_is_no_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emoji-sd").mkdir()
    assert isinstance(load_judge("emoji-sd"), Judge)
    with pytest.raises(RegistryError, match="no judge for 'nothing'"):
        load_judge("nothing")


def test_a_suite_names_its_judges(retrieval: Path) -> None:
    suite = load_suite("emoji-sd")
    found = load_judges(suite)
    assert found.names[0] == "emoji-judge" and isinstance(found.first, Judge)
    both = load_judges(suite.model_copy(update={"judges": ["emoji-judge", str(retrieval)]}))
    assert both.names == ("emoji-judge", "bars") and isinstance(both.second, RetrievalJudge)
    assert load_judges(suite, [str(retrieval)]).second is None, "who names one is judged by that one alone"
    with pytest.raises(RegistryError, match="give one, or two"):
        load_judges(suite, ["emoji-judge"] * 3)
    with pytest.raises(RegistryError, match="the judge does not know the object 'dog': bars knows upright, lying"):
        check_judges(both, [Sample("a dog", 0, "object", "dog")])


class Says:
    """A judge that says what it was told to, one picture after the other."""

    def __init__(self, *answers: str) -> None:
        self.objects, self.styles, self.answers = sorted({*answers}), ["any"], list(answers)

    def judge(self, images: Tensor) -> JudgeResult:
        said, self.answers = self.answers[: len(images)], self.answers[len(images) :]
        none = torch.zeros(len(images), 1)
        return JudgeResult(said, none, ["any"] * len(images), none)


def judged_by(first: Says, second: Says | None) -> dict[str, Any]:
    """One row: two pictures of a concept, one of something else, without and with a guard."""
    one = Case("m", ["dog"], Policy(), False, [Sample("", i, "object", "dog") for i in range(2)])
    one.others = [Sample("", 9, "object", "cat")]
    pictures = [Pictures(torch.zeros(n, 3, 4, 4, dtype=torch.uint8), ["x"] * n) for n in (2, 0, 1)]
    return row(Judges(first, second, ("a", "b")), one, pictures, pictures, "m")


ERASED = ("dog", "dog", "cat", "cat", "cat", "cat")  # two before, two after; the other before, after


def test_each_judge_has_its_columns_and_their_agreement_one() -> None:
    alone = judged_by(Says(*ERASED), None)
    assert alone["erased_after"] == 0 and alone["passes"] and not {"agree", "second_erased_after"} & alone.keys()
    both = judged_by(Says(*ERASED), Says(*ERASED))
    assert both["agree"] == 1 and both["passes"] and both["second_erased_before"] == 1
    fooled = judged_by(Says(*ERASED), Says("dog", "dog", "dog", "cat", "cat", "cat"))
    assert fooled["erased_after"] == 0 and fooled["second_erased_after"] == 0.5
    assert fooled["agree"] == 0.8333 and not fooled["passes"], "what one judge still sees is not erased"
    lost = judged_by(Says(*ERASED), Says("dog", "dog", "cat", "cat", "cat", "dog"))
    assert lost["second_others_after"] == 0 and not lost["passes"]
    assert mean([both, fooled])["second_erased_after"] == 0.25 and mean([both, fooled])["agree"] == 0.9166
