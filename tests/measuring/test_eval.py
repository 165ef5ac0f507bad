"""Evaluation: prompts kept apart, honest columns, controls that must fail, and real erasure on the embedded model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from conceptguard import plugins
from conceptguard.cli import run
from conceptguard.cli.eval import _announced
from conceptguard.cli.eval_cases import MAKERS, makers_of, of_methods
from conceptguard.errors import PolicyError, RegistryError
from conceptguard.measuring import cases, evaluate, judges, suite
from conceptguard.measuring.judges import Judges
from conceptguard.measuring.samples import Pictures, Recipe, make, make_once
from conceptguard.measuring.suite import Sample, Suite, load_suite
from conceptguard.policy import Policy

RECIPE = Recipe(steps=12)


@pytest.fixture(scope="module")
def emoji() -> Suite:
    return load_suite("emoji-sd")


@pytest.fixture(scope="module")
def judge(emoji: Suite) -> Judges:
    return judges.load_judges(emoji)


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A user's registry and cache of its own, for all tests here."""
    folder = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONCEPTGUARD_HOME", str(folder / "home"))
        patch.setenv("CONCEPTGUARD_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def guarded() -> Policy:
    """The shipped membrane about spiders, a thing that the model draws well."""
    return cases.policy_for(load_suite("emoji-sd"), "spm", ["spider"])


def test_a_method_without_artifacts_is_judged_on_the_suites_words(emoji: Suite) -> None:
    rules = cases.policy_for(emoji, "negative_guidance", ["beer"], settings={"scale": 2.0})
    assert rules.guards[0].concept is not None and "lager" in rules.guards[0].concept.prompts
    assert rules.guards[0].settings == {"scale": 2.0}
    assert cases.available(emoji, "negative_guidance") == emoji.all_concepts
    with pytest.raises(PolicyError, match="did you mean 'scale'"):
        cases.policy_for(emoji, "negative_guidance", ["beer"], settings={"scael": 2.0})


def test_artifacts_come_first(emoji: Suite) -> None:
    rules = cases.policy_for(emoji, "safree", ["beer", "cocktail"])
    assert [(guard.artifact, guard.concept is None) for guard in rules.guards] == [
        ("emoji-sd/safree/beer", True), (None, False),
    ]  # fmt: skip


def test_prompts_are_kept_apart_from_training_and_from_making(emoji: Suite) -> None:
    def trained(it: suite.Object) -> set[str]:
        known = [
            *emoji.training["styled"],
            *emoji.training["plain"],
            *emoji.tuning_templates,
            *emoji.tuning_templates_plain,
        ]
        words = [(it.thing, it.name), *((suite.with_article(s), s) for s in it.synonyms), *((p, p) for p in it.phrases)]
        return {
            template.format(thing=thing, noun=noun, style=style)
            for template in known
            for thing, noun in words
            for style in emoji.styles
        }

    for concept in emoji.concepts:
        samples = suite.erased(emoji, concept, 12)
        assert not {s.prompt for s in samples} & trained(emoji.object(concept))
        assert len({s.prompt for s in samples}) >= 10 and {s.label for s in samples} == {concept}
        assert sum(emoji.object(concept).name in s.prompt for s in samples) >= 6


def test_samples_are_fixed_and_have_their_own_seeds(emoji: Suite) -> None:
    for concept in emoji.all_concepts:
        groups = [suite.erased(emoji, concept, 12), suite.neighbours(emoji, concept, 12), suite.others(emoji, 24)]
        assert [len(g) for g in groups] == [12, 12, 24]
        assert len({s.seed for g in groups for s in g}) == 48
        assert groups[0] == suite.erased(emoji, concept, 12)
        assert all("{" not in s.prompt for g in groups for s in g)


def test_a_style_is_judged_by_style_and_its_neighbours_are_other_styles(emoji: Suite) -> None:
    assert {(s.head, s.label) for s in suite.erased(emoji, "mono", 12)} == {("style", "mono")}
    near = suite.neighbours(emoji, "mono", 12)
    assert {s.head for s in near} == {"style"} and {s.label for s in near} == set(emoji.styles) - {"mono"}
    one = cases.case(emoji, "spm", ["mono"], Policy(), 4, 8)
    assert not any("mono" in s.prompt for s in [*one.neighbours, *one.others])


def test_what_is_erased_together_is_nobodys_neighbour(emoji: Suite) -> None:
    concepts = [c for c in emoji.concepts if c != "knife"]
    one = cases.case(emoji, "spm", concepts, Policy(), 3, 8)
    assert not {s.label for s in one.neighbours} & set(concepts)
    assert len({(s.prompt, s.seed) for g in one.groups for s in g}) == sum(map(len, one.groups))


@pytest.mark.parametrize(
    ("line", "wrong", "message"),
    (
        ("base: emoji-sd", "base: emoji-sd\nextra: 1", "extra"),
        ("concept_styles: [mono]", "concept_styles: [cubist]", "'cubist' is not one of the styles"),
        ("    group: target", "    group: targets", "'target', 'neighbour' or 'other'"),
    ),
)
def test_a_wrong_suite_names_file_and_line(line: str, wrong: str, message: str, tmp_path: Path) -> None:
    from conceptguard.registry import shipped_folder

    files = sorted((shipped_folder() / "suites" / "emoji-sd").glob("*.yaml"))
    text = "\n".join(file.read_text() for file in files)
    assert line in text
    (tmp_path / "mine.yaml").write_text(text.replace(line, wrong, 1))
    with pytest.raises(RegistryError, match=message) as caught:
        load_suite(tmp_path / "mine.yaml")
    assert "mine.yaml, line " in str(caught.value) and "\n" not in str(caught.value)


GOOD = {
    "concepts": 1, "erased_before": 0.9, "erased_after": 0.0, "neighbours_before": 0.9, "neighbours_after": 0.9,
    "others_before": 0.9, "others_after": 0.89, "identical": 1.0, "gated": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "passes"),
    (
        ({}, True),
        ({"erased_after": 0.06}, False),
        ({"erased_before": 0.1}, False),  # nothing was there to erase
        ({"neighbours_after": 0.87}, False),
        ({"neighbours_after": 0.87, "concepts": 20}, True),
        ({"others_after": 0.8}, False),
        ({"others_after": 1.0}, True),
        ({"identical": 0.9}, False),
        ({"identical": 0.0, "gated": False}, True),
    ),
)
def test_the_bars(changes: dict[str, Any], passes: bool) -> None:
    assert evaluate.passes({**GOOD, **changes}) is passes


def test_unguarded_pictures_are_made_once_and_are_the_same_to_the_last_bit(pipe: Any, home: Path) -> None:
    samples = [Sample(f"a {it}", i, "object", it) for i, it in enumerate(("dog", "cat", "bee"))]
    recipe = Recipe(steps=2, batch=2)
    first = make_once(pipe, samples, recipe)
    heard: list[int] = []
    again = make_once(pipe, samples, recipe, heard.append)
    assert heard == [2, 1] and again.digests == first.digests and torch.equal(again.pixels, first.pixels)
    assert make(pipe, samples, recipe).identical(first) == 1.0
    assert make_once(pipe, samples, Recipe(steps=3, batch=2)).identical(first) == 0.0
    # A file that is no longer whole is made again, not believed.
    for path in (home / "cache" / "pictures").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    assert make_once(pipe, samples, recipe).digests == first.digests


def test_erasure_is_measured_and_the_controls_fail(pipe: Any, judge: Judges, emoji: Suite, guarded: Policy) -> None:
    one = cases.case(emoji, "spm", ["spider"], guarded, 4, 8)
    judged = evaluate.evaluate(pipe, judge, one, RECIPE, "emoji-sd")
    row = judged.row
    assert row["erased_before"] >= 0.75 and row["erased_after"] <= 0.25
    assert row["identical"] == 1.0 and row["others_after"] == row["others_before"] >= 0.5
    assert row["n"] == 16 and row["seconds"] > 0 and row["bytes"] > 0
    nothing, blank = evaluate.controls(judge, [judged], "emoji-sd")
    assert not nothing["passes"] and nothing["erased_after"] == nothing["erased_before"] and nothing["identical"] == 1
    assert not blank["passes"] and blank["erased_after"] == blank["others_after"] == blank["identical"] == 0


def test_the_judge_sees_nothing_in_nothing(judge: Judges, emoji: Suite) -> None:
    white = Pictures(torch.full((2, 3, 128, 128), 255, dtype=torch.uint8), ["a", "b"])
    for one in judge.by_prefix.values():
        assert judges.recognised(one, suite.others(emoji, 2), white) == [False, False]


def test_a_mean_weighs_concepts_alike() -> None:
    rows = [{**GOOD, "method": "spm", "concept": c, "erased_after": e, "n": 4} for c, e in (("a", 0.0), ("b", 0.2))]
    mean = evaluate.mean(rows)
    assert mean["erased_after"] == 0.1 and mean["n"] == 8 and not mean["passes"] and mean["concept"] == "mean of 2"
    some = evaluate.mean([{**rows[0], "synonyms_after": 0.5, "n_synonyms": 4}, rows[1]])
    assert (some["synonyms_after"], some["n_synonyms"]) == (0.5, 4), "the other concept has no synonyms"


def test_demo_and_eval_commands(
    pipe: Any, guarded: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("conceptguard.hosts.load.load_model", lambda name, **options: pipe)
    policy = tmp_path / "spider.yaml"
    policy.write_text(json.dumps(guarded.model_dump(exclude_none=True)))
    assert run(["demo", "--policy", str(policy), "--steps", "2", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "erased_" in shown and (tmp_path / "out" / "sheet.png").stat().st_size > 10_000
    (row,) = json.loads((tmp_path / "out" / "demo.json").read_text())["rows"]
    assert {"erased_before", "erased_after", "identical", "seconds_without", "seconds_with"} <= row.keys()
    words = ["eval", "--policy", str(policy), "--n", "2", "--steps", "2", "--batch", "4"]
    assert run([*words, "--json", "-", "--sheet", str(tmp_path / "sheet.png")]) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > sheet.width  # three groups of two rows, two to four prompts wide
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [r["method"] for r in rows] == ["spm prompt", "none", "blank"] and rows[0]["concepts"] == 1
    assert run([*words, "--check"]) == 1  # two steps draw nothing that could be recognised


def test_without_options_a_small_share_is_judged_and_said_beforehand() -> None:
    suite = load_suite("emoji-sd")
    some = of_methods(suite, ["spm", "uce"], "some", "prompt", {}, 1, 6, 0)
    every = of_methods(suite, ["spm", "uce"], "all", "prompt", {}, 1, 12, 0)
    drawn, all_drawn = (
        {sample for one in cases for group in one.groups for sample in group} for cases in (some, every)
    )
    guarded = sum(len(group) for one in some for group in one.groups)
    assert len(some) == 10 and guarded + len(drawn) <= 320 < len(all_drawn)
    told = _announced(some, 25, False)
    assert f"10 rows (spm, uce; {', '.join(suite.concepts[:5])})" in told
    assert f"{guarded} guarded pictures of 25 steps" in told and f"at most {len(drawn)} unguarded" in told
    assert "--full" in told and "--full" not in _announced(every, 25, True)


def test_closed_makers_are_those_with_artifacts(capsys: pytest.CaptureFixture[str]) -> None:
    suite = load_suite("emoji-sd")
    found = makers_of(suite, "closed")
    assert {"uce", "trce"} <= set(found) and not {"spm", "safree"} & set(found), "trce acts without an artifact too"
    told = capsys.readouterr().err
    assert all(name in found or name in told for name in MAKERS["closed"] if name in plugins.methods())
    assert {"spm", "uce"} <= set(makers_of(suite, "all"))
    trained = makers_of(suite, "trained")
    told = capsys.readouterr().err
    assert "spm" in trained and "uce" not in trained and "ant" in told, "which acts without having been trained"
    with pytest.raises(PolicyError, match="closed, trained or all"):
        makers_of(suite, "open")


@pytest.mark.parametrize("what", [["--guard", "sld:beer"], ["--policy", "school", "--suite", "language"]])
def test_settings_that_no_method_would_take_are_refused(what: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Left aside in silence they had figures of other guards than was written."""
    assert run(["eval", *what, "--set", "level=weak"]) == 2
    assert "--set is of --method" in capsys.readouterr().err
