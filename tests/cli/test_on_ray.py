"""Work on a Ray cluster: the rows of one process to the last digit, and what happens when workers or clusters die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray_work
from commands import reported, said
from ray_work import DIES, DIES_ONCE, FAILS, Opens, dies_on_the_second, once, work

from conceptguard.cli import draw
from conceptguard.cli.on_ray import On, pool
from conceptguard.errors import ConceptGuardError

ray = pytest.importorskip("ray")


@pytest.fixture(autouse=True)
def one_thread_each(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for two workers on two cores, which find what they are to do."""
    monkeypatch.setenv("PYTHONPATH", str(Path(ray_work.__file__).parent))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_two_workers_one_of_which_is_killed(tmp_path: Path) -> None:
    """All pieces once, in two rounds, by three processes; a piece that kills twice and one that fails end it."""
    ticks: list[int] = []

    def done(*pieces: str) -> list[tuple[int, tuple[str, int]]]:
        return list(at.each(pieces, ticks.append, lambda piece: 3))

    with pool(On("ray"), Opens(tmp_path), work) as at:
        first = done("a", DIES_ONCE, *"bcdefgh")
        second = done(*"ij")
        with pytest.raises(ConceptGuardError, match="two workers died of piece 2 of 2"):
            done("k", DIES)
        with pytest.raises(ConceptGuardError, match="this piece cannot be done"):
            done(FAILS)
    assert {i: piece for i, (piece, _) in first} == dict(enumerate(["a", DIES_ONCE, *"bcdefgh"]))
    assert {i: piece for i, (piece, _) in second} == {0: "i", 1: "j"} and len(first) == 9
    assert ticks[:11] == [3] * 11 and once(tmp_path / "died") is False
    assert len({who for _, (_, who) in [*first, *second]}) in (2, 3), "work is shared, also after a death"
    assert len(list(tmp_path.glob("[a-j]-*"))) == 10, "nothing was done twice but the piece of the dead"


@pytest.mark.slow
def test_a_cluster_that_goes_away(somewhere: None) -> None:
    """Its head, its node and its workers end at once, as when a machine is switched off: what was drawn stays."""
    Path("p.txt").write_text("a dog\n" * 500)
    words = "generate", "--policy", "none", "--prompts", "p.txt", "--steps", "2", "--batch", "1", "--on", "ray", "--out"
    command = [sys.executable, "-c", "from conceptguard.cli import main; main()", *words, "out"]
    process = psutil.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not list(Path().glob("out/*.png")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    for part in process.children(recursive=True):
        part.kill()
    assert process.wait(60) == 1
    told = process.stderr.read().strip().splitlines()[-1]
    assert (
        "the Ray cluster on this machine failed or went away" in told and 0 < len(list(Path().glob("out/*.png"))) < 500
    )


def test_generate_gives_the_rows_and_pictures_of_one_process(
    somewhere: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, died = Path("prompts.txt"), Path("died").absolute()
    monkeypatch.setenv("DIED", str(died))
    prompts.write_text("".join(f"a {word}, noto style\n" for word in ("cigarette", "dog", "pistol", "cat", "beer mug")))
    asked = ["generate", "--policy", "demo", "--prompts", prompts, "--steps", 2, "--batch", 2, "--compare", "--out"]
    one = reported(capsys, *asked, "one")
    monkeypatch.setattr(draw, "draw_job", dies_on_the_second)
    many = reported(capsys, *asked, "many", "--on", "ray")
    assert died.exists() and one["device"] == many["device"] == "cpu" and len(one["rows"]) == 5
    for alone, row in zip(one["rows"], many["rows"], strict=True):
        for key in ("file", "without"):
            assert Path(alone.pop(key)).read_bytes() == Path(row.pop(key)).read_bytes()
        assert alone == row
    for whole in (one, many):
        assert all(receipt.pop("seconds") > 0 for receipt in whole["receipts"])
    assert one["receipts"] == many["receipts"] and any(row["guards"] for row in one["rows"])


@pytest.mark.slow
def test_eval_gives_the_rows_of_one_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a cache of its own each, so that both draw; methods share what is drawn unguarded."""
    little = ["--concepts", "pistol", "--n", 1, "--steps", 2, "--batch", 2]
    asked = ["eval", "--method", "spm", "--method", "safree", *little]
    found = []
    for where in ([], ["--on", "ray"]):
        monkeypatch.setenv("CONCEPTGUARD_CACHE", str(tmp_path / f"cache {where}"))
        found.append(reported(capsys, *asked, *where)["rows"])
    for row in (row for rows in found for row in rows):
        row.pop("seconds", 0), row.pop("total_seconds", 0)
    assert found[0] == found[1] and [row["method"] for row in found[0]][:2] == ["spm", "safree"]


@pytest.mark.slow
def test_redteam_gives_the_rows_of_one_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was found, word for word, included; rows of all concepts stand in the plan's order."""
    attacks = ["--attack", "random", "--attack", "paraphrase", "--budget", "small", "--steps", 3]
    asked = ["redteam", "--guard", "spm:cigarette", "--guard", "uce:beer", "--concepts", "cigarette,beer", *attacks]
    found = []
    for where in ([], ["--on", "ray"]):
        monkeypatch.setenv("CONCEPTGUARD_CACHE", str(tmp_path / f"cache {where}"))
        found.append(reported(capsys, *asked, *where)["rows"])
    for row in (row for rows in found for row in rows):
        row.pop("seconds", 0), row.pop("search_seconds", 0)
    assert found[0] == found[1] and len(found[0]) == 6 and found[0][1]["found"]


@pytest.mark.slow
def test_make_gives_the_artifacts_of_one_process(somewhere: None, capsys: pytest.CaptureFixture[str]) -> None:
    Path("many.txt").write_text("pistol: pistol,gun\nknife\n")
    asked = ["make", "uce", "--concepts", "many.txt", "--each", "--preserve", "guitar", "--try", 1, "--out"]
    one, many = reported(capsys, *asked, "one")["rows"], reported(capsys, *asked, "many", "--on", "ray")["rows"]
    assert [row["concept"] for row in one] == ["pistol", "knife"]
    for alone, row in zip(one, many, strict=True):
        assert alone["manifest"]["files"] == row["manifest"]["files"] and alone["trial"] == row["trial"]
        assert alone["manifest"]["gate"] == row["manifest"]["gate"]
    listed = json.loads(Path("many/index.json").read_text())["entries"]
    assert {row["ref"] for row in many} == {entry["ref"] for entry in listed}


@pytest.mark.slow
def test_bench_many(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = reported(capsys, "bench", "many", "--n", 4, "--steps", 2, "--batch", 1, "--workers", 2)["rows"]
    assert row["same"] == 1.0 and row["ratio_peer"] > 0 and row["start_seconds"] > 0


@pytest.mark.parametrize(
    "words, told",
    (
        (["--prompts", "p.txt", "--on", "slurm"], "--on slurm: write ray"),
        (["--prompt", "a dog", "--on", "ray"], "--on is for many prompts"),
        (["--prompts", "p.txt", "--gpus", "0.5"], "add --on ray"),
    ),
)
def test_what_cannot_be_asked(words: list[str], told: str, somewhere: None, capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.txt").write_text("a dog\n")
    assert told in said(capsys, "generate", "--policy", "none", *words, status=2)[1]


@pytest.mark.parametrize(
    "words, told",
    (
        (["make", "uce", "--concept", "beer", "--out", "reg", "--on", "ray"], "add --each"),
        (["make", "uce", "--concept", "a", "--concept", "b", "--name", "c", "--each", "--out", "reg"], "--each out"),
        (["eval", "--suite", "language", "--on", "ray"], "--on is of suites of pictures"),
        (["redteam", "--suite", "language", "--policy", "none", "--on", "ray"], "--on is of suites of pictures"),
        (["redteam", "--policy", "demo", "--attack", "random", "--workers", "2"], "add --on ray"),
    ),
)
def test_what_no_command_takes(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told in said(capsys, *words, status=2)[1]


def test_a_cluster_that_is_not_there(
    somewhere: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found before a model is loaded; Ray alone would try for minutes."""
    Path("p.txt").write_text("a dog\n")
    for where, address in (("ray://127.0.0.1:9", ""), ("ray", "127.0.0.1:9")):
        monkeypatch.setenv("RAY_ADDRESS", address)
        words = "generate", "--policy", "none", "--prompts", "p.txt", "--on", where
        assert "does not answer" in said(capsys, *words, status=1)[1]
