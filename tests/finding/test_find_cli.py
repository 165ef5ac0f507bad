"""`conceptguard find` in a folder of pictures: what it says, the page, and what one can do with the files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commands import reported, said
from core import Unavailable
from drawn import looking
from page import chromium
from small_planted import planted, search

from conceptguard.finding.pictures import read_folder
from conceptguard.finding.planted import FIRST
from conceptguard.plugins import offers
from conceptguard.policy_file import load_policy

PROBED = "beer"


@pytest.fixture(scope="module")
def done(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a page, a concept file and a probe, and what the command reported."""
    import contextlib
    import io
    import json

    from conceptguard.cli import run

    out, told = tmp_path_factory.mktemp("found"), io.StringIO()
    words = ["find", "craft", "--pictures", folder, "--page", out / "found.html", "--out", out, "--probe", PROBED]
    with contextlib.redirect_stdout(told):
        assert run([*map(str, words), "--json", "-"]) == 0
    return out, json.loads(told.getvalue())


def test_what_it_reports(done: tuple[Path, dict[str, Any]]) -> None:
    out, report = done
    rows = report["rows"]
    assert 5 <= len(rows) <= 32 and rows[0]["importance"] >= rows[-1]["importance"]
    assert abs(sum(row["importance"] for row in rows if not row["part_of"]) - 1) < 0.05
    assert FIRST in [row["concept"] for row in rows if row["about"] == "guarded"]
    own, control = report["checks"]
    assert own["finder"] == "craft" and control["finder"] == "random_directions"
    assert own["shown"] == len(rows) <= own["at_most"] == 32 and 0 <= own["learnability"] <= 1
    assert own["learnability"] > control["learnability"] - 0.05 and own["classes"] is not None
    assert set(report["written"]) >= {str(out / "found.html"), str(out / "concepts.yaml"), str(out / "policy.yaml")}


def test_the_probe_is_a_policys_last_look(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """It sees the object on pictures that it did not learn from, and lets those without it pass."""
    moved = shutil.copytree(done[0], tmp_path / "elsewhere")
    assert str(done[0]) not in (moved / "policy.yaml").read_text(), "the folder may be moved as a whole"
    found = load_policy(moved / "policy.yaml").guards[0]
    guard = {"method": found.method, "artifact": found.artifact}
    assert Path(str(found.artifact)).is_relative_to(moved.resolve())
    it = planted()
    # What was found is the object as one of the two styles draws it.
    shown = it.truths[PROBED] & ~it.truths["mono"]
    with looking(guard) as session:
        session.check_image(it.pictures.pixels.float() / 255, [None] * len(it.pictures))
        flagged = torch.tensor([verdict.flagged for verdict in session.receipt.verdicts])
        bare = it.without(PROBED).pixels[shown].float() / 255
        session.check_image(bare, [None] * len(bare))
        again = torch.tensor([verdict.flagged for verdict in session.receipt.verdicts[-len(bare) :]])
    assert float(flagged[shown].float().mean()) >= 0.8
    assert float(flagged[~it.truths[PROBED]].float().mean()) <= 0.1
    assert float(again.float().mean()) <= 0.4, "really taken away, and seen no more"


def test_the_concept_file_is_one_that_makers_read(done: tuple[Path, dict[str, Any]]) -> None:
    from conceptguard.cli.concepts import concepts_of
    from conceptguard.concept import as_concepts

    out, report = done
    listed = as_concepts(concepts_of([], out / "concepts.yaml", [], ""))
    assert FIRST in [one.name for one in listed]
    assert len(listed) == len([row for row in report["rows"] if row["words"] and not row["part_of"]])


def test_the_page_needs_nothing_beside_it(done: tuple[Path, dict[str, Any]]) -> None:
    out, report = done
    page = (out / "found.html").read_text()
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|\")", page), "it would need something beside it"
    assert page.count("<section") == len(report["rows"]) and "random_directions" in page


def test_a_person_strikes_and_renames_in_a_browser(done: tuple[Path, dict[str, Any]]) -> None:
    out, report = done
    try:
        with chromium() as browser:
            page = browser.new_page()
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(f"file://{out / 'found.html'}")
            assert page.locator("section").count() == len(report["rows"]) <= 32
            assert page.locator("#checks tr").count() == 3, "the finder's checks, and a random finder's"
            assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
            before = yaml.safe_load(page.locator("#file").inner_text())
            page.locator(".strike").first.check()
            page.locator(".name").nth(1).fill('a "thing": [x]')
            with page.expect_download() as saved:
                page.locator("#save").click()
            after = yaml.safe_load(Path(saved.value.path()).read_text())
            assert len(after) == len(before) - 1 and after[0]["name"] == 'a "thing": [x]'
            assert "struck" in page.locator("section").first.get_attribute("class") and not errors
    except Unavailable as why:
        pytest.skip(str(why))


def test_what_is_asked_wrongly(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "half" / "dog").mkdir(parents=True)
    some = sorted(folder.rglob("*.png"))
    for i, file in enumerate(some[:10]):
        (tmp_path / "half" / "dog" / f"{i}.png").write_bytes(file.read_bytes())
    for words, status, says in (
        (["find", "craft"], 2, "looks through pictures: give --pictures FOLDER, or --model"),
        (["find", "craft", "--pictures", folder, "--probe", "1"], 2, "--probe writes files: add --out FOLDER"),
        (["find", "craft", "--pictures", folder, "--correct"], 2, "--correct writes files: add --out FOLDER"),
        (["find", "concept_vectors", "--pictures", folder], 2, "looks into a model: give --model"),
        (["find", "crafd", "--pictures", folder], 1, "did you mean 'craft'?"),
        (["find", "craft", "--pictures", tmp_path / "none"], 1, "no such folder"),
        (
            ["find", "craft", "--pictures", tmp_path / "empty"],
            1,
            "no PNG, JPEG, WebP or BMP in it; there are folders, cat",
        ),
        (["find", "craft", "--pictures", folder, "--encoder", tmp_path], 1, "nor a folder of CLIP or SigLIP"),
        (["find", "craft", "--pictures", folder, "--set", "concept=3"], 1, "did you mean 'concepts'?"),
        (["find", "craft", "--pictures", tmp_path / "half"], 1, "all pictures are of one class, 'dog'"),
    ):
        assert says in " ".join(said(capsys, *words, status=status)[1].split()), words
    (tmp_path / "half" / "cow").mkdir()
    assert "class 'cow' has no pictures" in said(capsys, "find", "pca", "--pictures", tmp_path / "half", status=1)[1]


@pytest.mark.slow
def test_a_model_is_looked_at_by_what_it_draws(capsys: pytest.CaptureFixture[str]) -> None:
    """Of two things that are drawn in turn both are found, and nothing is about a class where there is none."""
    words = ["find", "lens", "--model", "emoji-sd", "--concept", "fruit or dog: apple,dog", "--draw", 12]
    told = reported(capsys, *words, "--set", "concepts=6")
    assert told["rows"] and all(row["about"] == "" for row in told["rows"])
    assert any("dog" in row["words"] for row in told["rows"])


def test_of_many_pictures_some_are_read(folder: Path, tmp_path: Path) -> None:
    """Memory does not grow with the folder, every class is there, and it is said how many were read."""
    pictures = sorted(folder.rglob("*.png"))
    for name, count in (("many", 90), ("few", 3)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f"{i:02}.png").write_bytes(pictures[i % len(pictures)].read_bytes())
    some = read_folder(tmp_path, most=31)
    assert len(some) == 32 and some.of == 93 and list(some.classes).count("few") == 2
    assert len(set(some.names)) == len(some)
    whole = read_folder(tmp_path)
    assert len(whole) == 93 and not whole.of
    told = offers("finders")["random_directions"].find(search("random_directions", some)).told
    assert "in 32 of 93 pictures" in told
