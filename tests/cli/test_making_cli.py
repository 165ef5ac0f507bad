"""``make``, ``index``, ``judge`` and ``eval`` of one's own: what somebody does who has a model and a concept."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import reported, said
from PIL import Image, ImageDraw
from registry_tools import served

import conceptguard
from conceptguard.cli import build

pytestmark = pytest.mark.usefixtures("somewhere")


MAKE = ["make", "uce", "--concept", "trumpet", "--prompts", "trumpet,horn", "--preserve", "guitar", "--out", "reg"]


def test_make_ends_with_a_picture_and_a_line_of_figures(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, *MAKE, "--model", "./my-sd", "--try", 2)
    lines = out.splitlines()
    assert len(lines) < 10 and "sha256" not in out, "a manifest is for `show` and for --json"
    told = " ".join(out.split())
    assert "changed 100% of 2 pictures of the concept" in told and "100% of 2 others are the same bit for bit" in told
    (sheet,) = Path("reg").glob("*.png")
    assert str(sheet) in out and Image.open(sheet).width > 200
    assert "conceptguard generate --model ./my-sd --guard uce:reg/" in out


def test_make_is_judged_where_there_is_a_judge(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = reported(capsys, *MAKE, "--try", 1)["rows"]
    assert {"erased_before", "erased_after", "identical"} <= row["trial"].keys() and row["trial"]["n"] == 2
    assert row["manifest"]["concept"]["prompts"] == ["trumpet", "horn"] and Path(row["picture"]).is_file()
    (row,) = reported(capsys, *MAKE, "--try", 0)["rows"]
    assert row["trial"] is None and row["picture"] == ""


def test_of_several_concepts_an_artifact_each(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The second is the one that is made of it alone, to the last bit."""
    two = ["--concept", "drum", "--concept", "trumpet: trumpet,horn"]
    both = ["make", "uce", *two, "--preserve", "guitar", "--try", 0]
    rows = reported(capsys, *both, "--each", "--out", "both")["rows"]
    assert [row["concept"] for row in rows] == ["drum", "trumpet"]
    (alone,) = reported(capsys, *MAKE, "--try", 0)["rows"]
    assert rows[1]["manifest"]["files"] == alone["manifest"]["files"] != rows[0]["manifest"]["files"]
    (together,) = reported(capsys, *both, "--out", "both")["rows"]
    assert together["concept"] == "concepts" and len(together["manifest"]["made"]["concepts"]) == 2


def test_what_make_wrote_is_served_as_it_is(
    model: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = reported(capsys, *MAKE, "--try", 0)["rows"]
    with served(Path("reg")) as (address, _):
        monkeypatch.setenv("CONCEPTGUARD_REGISTRIES", address)
        assert row["ref"] in {one["ref"] for one in reported(capsys, "list")["rows"]}
        assert reported(capsys, "pull", row["ref"])["rows"][0]["bytes"] == row["bytes"]
    Path("reg/index.json").unlink()
    out, _ = said(capsys, "index", "reg")
    assert row["ref"] in out and "http.server" in out and "CONCEPTGUARD_REGISTRIES" in out
    assert json.loads(Path("reg/index.json").read_text())["entries"][0]["ref"] == row["ref"]
    assert "no such folder" in said(capsys, "index", "rag", status=1)[1]


def test_a_forget_set_is_tried_on_answers(
    pair: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, suite: Any
) -> None:
    monkeypatch.setattr("conceptguard.hosts.load.load_model", lambda name, **options: pair)
    for name, groups in (("forget", ("forget",)), ("retain", ("retain",))):
        questions = suite.questions(suite.world.subjects(*groups), "question", wordings="tune")
        lines = [json.dumps({"prompt": one.prompt, "answer": one.answer}) for one in questions]
        Path(f"{name}.jsonl").write_text("\n".join(lines))
    out, _ = said(
        capsys, "make", "guard", "--model", "authors-lm", "--concept", "authors", "--set", "forget=forget.jsonl",
        "--set", "retain=retain.jsonl", "--try", 2, "--out", "reg",
    )  # fmt: skip
    assert "changed 2 of 2 answers that are to be forgotten; 2 of 2 others are the same" in " ".join(out.split())
    assert "conceptguard say --model authors-lm --guard guard:" in out


# A concept of one's own on a model of one's own.


def sorted_pictures(folder: Path, n: int = 15) -> None:
    """Discs, bars and plain grounds, each somewhere else and in another colour."""
    draw = random.Random(0)
    for name in ("disc", "bar", "none"):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            image = Image.new("RGB", (64, 64), tuple(draw.randrange(150, 256) for _ in range(3)))
            x, y, ink = draw.randrange(10, 30), draw.randrange(10, 30), (draw.randrange(90), 0, draw.randrange(90))
            if name == "disc":
                ImageDraw.Draw(image).ellipse((x, y, x + 26, y + 26), ink)
            if name == "bar":
                ImageDraw.Draw(image).rectangle((x + 10, 0, x + 14, 64), ink)
            image.save(folder / name / f"{i}.png")


SUITE = """
base: my-sd
concepts: [disc]
judge_templates: ["a photo of {thing}", "{noun}, close up"]
objects:
  - {name: disc, group: target, synonyms: [plate], neighbours: [bar]}
  - {name: bar, group: neighbour}
  - {name: none, group: other, thing: a wall}
"""


@pytest.fixture
def judge(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """A judge in ``my-judge``, and what its training reported."""
    sorted_pictures(Path("pictures"))
    return reported(capsys, "judge", "pictures", "--out", "my-judge", "--steps", 50)


def test_a_judge_is_trained_on_sorted_pictures_and_judges(
    judge: dict[str, Any], model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge["accuracy"] >= 0.8 and [row["object"] for row in judge["rows"]] == ["bar", "disc", "none"]
    Path("my-suite.yaml").write_text(SUITE)
    given = ["--suite", "my-suite.yaml", "--judge", "my-judge", "--model", "my-sd", "--n", 2, "--steps", 1]
    guard = "{method: sld, concept: {name: disc, prompts: [disc, plate]}}"
    rows = reported(capsys, "eval", *given, "--guard", guard)["rows"]
    assert [row["method"] for row in rows] == [guard, "none", "blank"] and rows[0]["n"] == 8
    assert all(0 <= row["erased_before"] <= 1 and row["identical"] is not None for row in rows)
    policy = {"name": "own", "guards": [yaml.safe_load(guard)]}
    same = conceptguard.evaluate(model, policy, suite="my-suite.yaml", judge="my-judge", n=2, steps=1)
    assert [row["erased_after"] for row in same] == [row["erased_after"] for row in rows]
    Path("other.yaml").write_text(SUITE.replace("bar", "kite"))
    assert "the judge does not know the object 'kite'" in said(
        capsys, "eval", *given[:1], "other.yaml", *given[2:], "--guard", guard, status=1
    )[1]  # fmt: skip


def test_a_judge_that_cannot_tell_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(1)
    for name in ("a", "b"):
        (Path("noise") / name).mkdir(parents=True)
        for i in range(20):
            Image.frombytes("RGB", (16, 16), draw.randbytes(768)).save(Path("noise") / name / f"{i}.png")
    assert "nothing that it said would mean anything" in said(
        capsys, "judge", "noise", "--out", "bad", "--steps", 3, status=1
    )[1]  # fmt: skip
    assert not Path("bad").exists()
    for path in Path("noise/b").glob("1*.png"):
        path.unlink()
    Path("noise/b/2.png").write_text("not a picture")
    assert "2.png is no picture that can be read" in said(capsys, "judge", "noise", "--out", "bad", status=1)[1]
    for path in Path("noise/b").glob("*.png"):
        path.unlink()
    assert "0 pictures" in said(capsys, "judge", "noise", "--out", "bad", status=1)[1]
    assert "put pictures of each object into a folder" in said(capsys, "judge", "noise/a", "--out", "b", status=1)[1]


def test_eval_without_a_judge_says_how_to_get_one(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Path("my-suite.yaml").write_text(SUITE)
    assert "conceptguard judge PICTURES --out FOLDER" in said(
        capsys, "eval", "--suite", "my-suite.yaml", "--guard", "sld:disc", status=1
    )[1]  # fmt: skip


def test_a_long_evaluation_says_so_beforehand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from conceptguard.cli import progress

    now = [0.0]
    monkeypatch.setattr("conceptguard.cli.progress.time.perf_counter", lambda: now[0])
    with progress.estimated("pictures", 3000, "a smaller --n") as tick:
        tick(8)  # out of the cache: in no time
        for _ in range(3):
            now[0] += 16
            tick(8)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "conceptguard: 2,984 more pictures at 2.0 s each: about 1.7 hours; shorter with a smaller --n"
    with progress.estimated("pictures", 16, "a smaller --n") as tick:
        now[0] += 16
        tick(8)
    assert capsys.readouterr().err == ""


def test_a_guard_is_a_row_of_the_language_suite(suite: Any) -> None:
    from conceptguard.cli.eval import _named
    from conceptguard.cli.eval_language import contestants

    (row,) = contestants(suite, [], [_named("phrases:Broholm")], {})
    assert row.method == "phrases:Broholm" and row.policy is not None


# Python, and what every command has.


def test_make_and_import_in_python(tiny: Any, tmp_path: Path) -> None:
    made = conceptguard.make(
        tiny, "uce", {"name": "trumpet", "prompts": ["trumpet", "horn"]}, "reg", preserve=["guitar"], lamb=0.7
    )
    assert made.manifest.made["settings"]["lamb"] == 0.7
    assert json.loads(Path("reg/index.json").read_text())["entries"][0]["ref"] == made.ref
    (weights,) = made.folder.glob("*.safetensors")
    found = conceptguard.import_artifact(weights, "uce", concept="horn", prompts=["horn"], base="my-sd", into="own")
    assert found.ref == "my-sd/uce/horn" and Path("own/my-sd/uce/horn/artifact.yaml").is_file()
    with pytest.raises(conceptguard.RegistryError, match="which base models"):
        conceptguard.import_artifact(weights, "uce")
    with pytest.raises(conceptguard.PolicyError, match="did you mean 'uce'"):
        conceptguard.make(tiny, "ucee", "trumpet", "reg")


def test_every_command_reports_and_teaches() -> None:
    """--json, and an example in the help."""
    import typer

    from conceptguard.cli import offer

    app = build()
    offer(app)

    def leaves(group: Any, path: str) -> Any:
        for name, command in group.commands.items():
            inner = f"{path} {name}"
            yield from leaves(command, inner) if hasattr(command, "commands") else [(inner, command)]

    found = dict(leaves(typer.main.get_command(app), "conceptguard"))
    assert len(found) > 24
    for name, command in found.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert "--json" in options, name
        assert f"{name} " in f"{command.callback.__doc__} ".replace("\n", " "), f"{name} has no example"


def test_several_are_made_at_once_and_one_is_withdrawn(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """On the command line and from files in both forms; what is left is to the last bit what is made of the others."""
    made = ["make", "uce", "--model", "./my-sd", "--try", 0, "--set", "tokens=last"]
    typed = ["--concept", "horn: trumpet, horn", "--concept", "knife", "--concept", "beer", "--name", "three"]
    (row,) = reported(capsys, *made, *typed, "--out", "whole")["rows"]
    assert row["concept"] == "three" and row["ref"].endswith("/uce/three")
    assert row["manifest"]["concept"]["prompts"] == ["trumpet", "horn", "knife", "beer"]
    (left,) = reported(capsys, "withdraw", row["folder"], "knife", "--model", "./my-sd")["rows"]
    assert left["concepts"] == 2 and left["folder"] == row["folder"]
    weights, manifest = (Path(left["folder"], name) for name in ("three.safetensors", "artifact.yaml"))
    Path("two.txt").write_text("horn: trumpet, horn\n\nbeer\n")
    Path("two.yaml").write_text("- {name: horn, prompts: [trumpet, horn]}\n- beer\n")
    for file in ("two.txt", "two.yaml"):
        (fresh,) = reported(capsys, *made, "--concepts", file, "--name", "three", "--out", file[4:])["rows"]
        assert Path(fresh["folder"], "three.safetensors").read_bytes() == weights.read_bytes()
        assert fresh["manifest"]["gate"] == yaml.safe_load(manifest.read_text())["gate"]
        assert fresh["manifest"]["files"] != row["manifest"]["files"]


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        ([], 2, "--concept NAME"),
        (["--concept", "a", "--concept", "b", "--prompts", "c"], 2, "--concept 'NAME: A,B'"),
        (["--concept", "beer", "--concept", "Beer"], 1, "two concepts are called"),
        (["--concept", "beer", "--concept", "wine", "--preserve", "wine"], 1, "preserve 'wine'"),
        (["--concepts", "nonesuch.txt"], 1, "cannot be read"),
    ],
    ids=["none", "prompts of which", "twice", "kept", "no file"],
)
def test_what_cannot_be_made_at_once(
    options: list[str], status: int, says: str, model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["make", "uce", "--model", "./my-sd", "--out", "reg", *options]
    assert says in said(capsys, *command, status=status)[1] and not Path("reg/my-sd/uce").exists()
