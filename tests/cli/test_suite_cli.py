"""``suite new`` and ``suite check``: a suite for one's own concept, out of words, a judge's objects, or captions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from commands import reported, said

from conceptguard import plugins
from conceptguard.measuring import new_suite
from conceptguard.measuring.suite import Object, Suite, erased, load_suite, neighbours, others

pytestmark = pytest.mark.usefixtures("somewhere")

CAPTIONS = [
    "a guitar, oil on canvas", "a trumpet, oil on canvas", "a photo of a dog on the beach",
    "a photo of a cat on the beach", "two people with a guitar in the park", "The dog sleeps", "a dog, oil on canvas",
    "a cat, oil on canvas", "a red apple on a plate", "a red apple by the window", "a plate, oil on canvas",
    "an old house in the snow", "an old house, oil on canvas", "a photo of a trumpet on the beach",
    "a photo of a house", "1girl, guitar, sitting",
]  # fmt: skip


def test_things_and_wordings_are_found_in_captions() -> None:
    found = new_suite.nouns(CAPTIONS)
    assert {name: found[name] for name in ("guitar", "dog", "cat", "red apple", "old house", "plate")} == {
        "guitar": 3, "dog": 2, "cat": 2, "red apple": 2, "old house": 2, "plate": 2,
    }  # fmt: skip
    assert not {"photo", "beach", "a", "red"} & set(found)
    templates = new_suite.wordings(CAPTIONS, ["guitar", "trumpet", "dog", "cat", "old house", "house", "plate"])
    assert templates[0] == "{thing}, oil on canvas" and "a photo of {thing} on the beach" in templates
    assert "two people with {thing} in the park" not in templates, "only one thing is asked for so"
    assert not any("plate" in one for one in templates)


def test_near_is_what_the_model_is_told_alike_of(pipe: Any) -> None:
    """Of all objects, the one that another word is for: by chance it would be in the middle of the ranking."""
    suite, host = load_suite("emoji-sd"), plugins.host_for(pipe)
    asked = [it for it in suite.objects if it.neighbours and it.synonyms][:3]
    names = [it.name for it in suite.objects]
    for it in asked:
        scores = dict(zip(names, new_suite.closeness(host, it.synonyms[:1], names)))
        assert sorted(names, key=lambda name: -scores[name]).index(it.name) < 3
    near, far = new_suite.choose(asked[0].name, ["nonesuch"], names, host)
    assert len(near) == 3 and len(far) == 8 and not set(near) & set(far) and asked[0].name not in near + far


def test_words_of_the_concept_are_never_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_suite, "closeness", lambda host, words, names: [len(name) for name in names])
    counts = Counter({"brass horn": 3, "horn": 5, "guitar": 4, "cat": 2, "dog": 1, "none": 9, "violin": 2})
    near, far = new_suite.choose("trumpet", ["horn"], counts, None, near=1, far=2)
    assert near == ["guitar"] and far == ["violin", "cat"], "one caption is too few, and none is nothing to ask for"


def test_a_suite_from_words_alone_explains_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["trumpet", "--words", "horn,brass horn", "--phrase", "a man: in a band", "--neighbours", "guitar",
             "--others", "apple,dog", "--model", "./my-sd", "--out", "my.yaml"]  # fmt: skip
    told = reported(capsys, "suite", "new", *given)
    assert [(row["object"], row["group"]) for row in told["rows"]] == [
        ("trumpet", "target"), ("guitar", "neighbour"), ("apple", "other"), ("dog", "other"),
    ]  # fmt: skip
    suite = load_suite("my.yaml")
    assert suite.base == "my-sd" and suite.words("trumpet") == ["trumpet", "horn", "brass horn", "a man: in a band"]
    prompts = [one.prompt for one in erased(suite, "trumpet", 8)]
    assert any("horn" in one for one in prompts) and all("{" not in one for one in prompts)
    assert {one.label for one in neighbours(suite, "trumpet", 4)} == {"guitar"}
    assert {one.label for one in others(suite, 4)} == {"apple", "dog"}
    text = Path("my.yaml").read_text()
    comments = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    for key in [
        line.split(":")[0].strip(" -") for line in text.splitlines() if not line.startswith("#") and ": " in line
    ]:
        before = text[: text.index(f"{key}:")]
        assert key in ("name", *Object.model_fields, *Suite.model_fields)
        assert key == "name" or f"#   {key} " in comments or before.rstrip().splitlines()[-1].startswith("#"), key
    assert "is there already" in said(capsys, "suite", "new", *given, status=2)[1]
    assert reported(capsys, "suite", "new", *given, "--force")["rows"] == told["rows"]


def test_what_a_judge_knows_is_what_is_asked_for(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("trumpet", "guitar", "apple", "dog", "house", "none"):
        (Path("pictures") / name).mkdir(parents=True)
    words = ["suite", "new", "trumpet", "--words", "horn", "--judge", "pictures", "--model", "my-sd", "--out"]
    out = said(capsys, *words, "my.yaml")[0]
    assert "conceptguard suite check my.yaml --judge pictures" in " ".join(out.split())
    suite = load_suite("my.yaml")
    assert {it.name for it in suite.objects} <= {"trumpet", "guitar", "apple", "dog", "house"}
    assert len(suite.object("trumpet").neighbours) == 2 and len(suite.objects) == 5
    rows = reported(capsys, "suite", "check", "my.yaml", "--judge", "pictures", "--n", 3)["rows"]
    assert Counter(row["kind"] for row in rows) == {"erased": 3, "neighbours": 3, "others": 3}
    (Path("pictures") / "guitar").rename(Path("pictures") / "lute")
    assert "does not know guitar" in said(capsys, "suite", "check", "my.yaml", "--judge", "pictures", status=2)[1]
    assert "the judge does not know it" in said(capsys, "suite", "new", "kite", *words[3:], "b.yaml", status=2)[1]
    assert "no folders in it" in said(capsys, *words[:5], "--judge", "pictures/lute", "--out", "a.yaml", status=2)[1]


def test_captions_give_things_and_wordings(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Path("captions.csv").write_text("caption\n" + "\n".join(f'"{one}"' for one in CAPTIONS) + "\n")
    words = ["suite", "new", "trumpet", "--model", "my-sd", "--out", "my.yaml", "--captions"]
    told = reported(capsys, *words, "captions.csv")
    assert told["templates"][0] == "{thing}, oil on canvas"
    assert {row["object"] for row in told["rows"]} <= {"trumpet", "guitar", "dog", "cat", "red apple", "old house",
                                                       "plate", "house"}  # fmt: skip
    Path("train").mkdir()
    for i, one in enumerate(CAPTIONS):
        (Path("train") / f"{i}.txt").write_text(one)
    assert reported(capsys, *words, "train", "--force")["rows"] == told["rows"], "beside the pictures of a training"
    Path("captions.csv").write_text('text_of_it\n"a guitar"\n')
    assert "no column" in said(capsys, *words, "captions.csv", "--force", status=1)[1]


@pytest.mark.parametrize(
    ("words", "message"),
    (
        (["--neighbours", "horn"], "'horn' is the concept itself"),
        (["--neighbours", "dog", "--others", "dog"], "'dog' is among the neighbours and the others"),
        (["--template", "a photo", "--others", "dog"], "has no place for a thing"),
    ),
)
def test_what_could_not_be_judged_is_not_written(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["suite", "new", "trumpet", "--words", "horn", "--out", "my.yaml"]
    assert message in said(capsys, *given, *words, status=1)[1] and not Path("my.yaml").exists()
