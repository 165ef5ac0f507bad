"""What is made for a measurement: artifacts that were told a name alone, and many objects at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conceptguard_plugins.diffusion.uce import UCE

from conceptguard.cli import run
from conceptguard.cli.eval_cases import Anew, crowds_of, few_of, told_names_alone
from conceptguard.errors import RegistryError
from conceptguard.measuring.anew import FEW, Crowd, _settings, crowds
from conceptguard.measuring.cases import case, policy_for
from conceptguard.measuring.suite import Suite, load_suite, synonyms
from conceptguard.plugins import host_for
from conceptguard.registry import Registry, open_artifact, rebuild_index
from conceptguard.text.words import stands_in


@pytest.fixture(scope="module")
def emoji() -> Suite:
    return load_suite("emoji-sd")


@pytest.fixture
def anew(pipe: Any, emoji: Suite, tmp_path: Path) -> Iterator[Anew]:
    """Few objects, so that making takes a second."""
    few = emoji.model_copy(update={"objects": [o for o in emoji.objects if o.name in ("beer", "wine", "milk", "dog")]})
    few.objects[1].neighbours.clear()
    yield Anew(pipe, few.model_copy(update={"concepts": ["beer"]}), tmp_path, "always", None)


def test_synonyms_ask_by_no_name_and_are_judged_as_the_object(emoji: Suite) -> None:
    asked = synonyms(emoji, "pistol", 12)
    assert {s.label for s in asked} == {"pistol"} and len({s.prompt for s in asked}) == 12
    assert all("gun" in s.prompt and not stands_in("pistol", s.prompt) for s in asked)
    plain = [s for s in asked if not any(style in s.prompt for style in emoji.styles)]
    assert len(plain) == 3 and len({s.seed for s in asked}) == 12
    assert any("handgun" in s.prompt for s in plain) and any("handgun" not in s.prompt for s in plain)
    assert synonyms(emoji, "mono", 4) == []


def test_an_artifact_that_was_told_the_name_alone(emoji: Suite, anew: Anew) -> None:
    """Its sibling's settings and what it keeps, another prompt; a row without an artifact gets none."""
    rules, by_words = policy_for(emoji, "uce", ["beer"]), policy_for(emoji, "sld", ["beer"])
    plain, words = case(emoji, "uce", ["beer"], rules, 2, 2), case(emoji, "sld", ["beer"], by_words, 2, 2)
    told, untouched = told_names_alone([plain, words], anew, 4)
    assert untouched == words and len(untouched.groups) == 3
    assert len(told.groups) == 4 and [len(groups) for _, groups in told.drawn] == [3, 1]
    assert told.unnamed is not None and told.unnamed.guards[0].gate == "always"
    made = open_artifact(Path(str(told.unnamed.guards[0].artifact))).manifest
    like = open_artifact(_folder(rules.guards[0].artifact)).manifest
    assert made.concept.prompts == ["beer"] != like.concept.prompts
    assert made.made["preserve"] == like.made["preserve"] and made.made["settings"] == like.made["settings"]
    assert not any(word in said for said in made.concept.prompts for word in emoji.object("beer").synonyms)


def _folder(ref: str | None) -> Path:
    from conceptguard.registry import default_registry

    return default_registry().load(str(ref)).folder


def test_many_objects_at_once(emoji: Suite, anew: Anew, capsys: pytest.CaptureFixture[str]) -> None:
    few, half = crowds(emoji)
    assert len(few.erased) == FEW and len(half.erased) == len(emoji.objects) / 2
    for crowd in (few, half):
        assert {it.name for it in crowd.erased}.isdisjoint(it.name for it in crowd.kept)
        assert "tree" not in [it.name for it in crowd.erased] or "palm tree" not in [it.name for it in crowd.kept]
    assert len(few.kept) > len(half.kept) + FEW
    one, other = crowds_of(["uce", "spm"], anew, 2)
    assert "spm" not in (one.method, other.method), "which makes no artifact of several"
    assert one.concepts == [it.name for it in anew.suite.objects[::2]]
    assert [s.label for s in one.others] == [it.name for it in anew.suite.objects[1::2]]
    assert all(s.label in s.prompt for s in one.samples) and len({s.seed for s in [*one.samples, *other.samples]}) == 8
    made = open_artifact(Path(str(one.policy.guards[0].artifact))).manifest
    assert [c["name"] for c in made.made["concepts"]] == one.concepts


def test_settings_that_a_maker_no_longer_knows_are_left_out(anew: Anew, tmp_path: Path) -> None:
    made = UCE.make(host_for(anew.pipe), "beer", tmp_path / "old", preserve=["milk"], lamb=0.7)
    manifest = made.folder / "artifact.yaml"
    manifest.write_text(manifest.read_text().replace("lamb: 0.7", "lamb: 0.7\n    gone: 1"))
    assert _settings(open_artifact(made.folder)) == made.manifest.made["settings"] and "gone: 1" in manifest.read_text()


def test_a_few_concepts_at_once(pipe: Any, emoji: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One artifact that was told the words of all; asked for as several guards together are."""
    anew = Anew(pipe, emoji, tmp_path, "prompt", None)
    first, second = few_of(["uce", "spm"], ["beer"], 3, anew, 6, 2)
    assert "left out: spm of 3 at once: method 'spm' makes an artifact of one concept" in capsys.readouterr().err
    assert first.concepts == ["beer", *[c for c in emoji.concepts if c != "beer"][:2]] and first.gated
    assert len(first.erased) == 3 * round(6 / 3**0.5) and len(first.others) == 12
    assert {s.seed for s in first.samples}.isdisjoint(s.seed for s in second.samples)
    made = open_artifact(Path(str(first.policy.guards[0].artifact))).manifest
    assert made.concept.prompts == [word for name in first.concepts for word in emoji.words(name)]
    like = open_artifact(_folder(policy_for(emoji, "uce", ["beer"]).guards[0].artifact)).manifest
    assert made.made["settings"] == like.made["settings"] and set(made.made["preserve"]) < set(like.made["preserve"])
    with pytest.raises(RegistryError, match="99 concepts at once"):
        few_of(["uce"], [], 99, anew, 6, 1)


def test_artifacts_of_a_given_registry_come_before_those_that_ship(emoji: Suite, anew: Anew) -> None:
    (told,) = told_names_alone([case(emoji, "uce", ["beer"], policy_for(emoji, "uce", ["beer"]), 1, 1)], anew, 2)
    rebuild_index(anew.out)
    found = policy_for(emoji, "uce", ["beer"], registry=Registry([anew.out])).guards[0].artifact
    assert told.unnamed is not None and found == told.unnamed.guards[0].artifact


def test_cards_are_of_what_stays(anew: Anew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd's artifact is gone when all is judged, and has none; what was judged alone has."""
    own, told, few = tmp_path / "own", tmp_path / "told.json", anew.suite.objects
    monkeypatch.setattr("conceptguard.measuring.anew.crowds", lambda suite: [Crowd(few[:2], few[2:])])
    made = UCE.make(host_for(anew.pipe), "beer", own, preserve=["milk"])
    rebuild_index(own)
    asked = ["eval", "--artifacts", str(own), "--method", "uce", "--concepts", "beer", "--crowd", "--n", "1"]
    assert run([*asked, "--steps", "1", "--card", str(own), "--json", str(told)]) == 0
    rows = json.loads(told.read_text())["rows"]
    assert [row["concepts"] for row in rows if row["method"] == "uce"] == [1, 2]
    assert open_artifact(made.folder).manifest.card["n"] == 4
