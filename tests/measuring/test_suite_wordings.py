"""Training, tuning and judging wordings of emoji-sd are kept apart, and captions say what is in their scenes."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest
from conceptguard_registry.build.emoji_sd.captions import Captions, misspelt
from conceptguard_registry.build.emoji_sd.scenes import Scene, random_scene

from conceptguard.errors import RegistryError
from conceptguard.measuring.suite import Suite, load_suite


@pytest.fixture(scope="module")
def emoji() -> Suite:
    return load_suite("emoji-sd")


def bare(text: str) -> str:
    """A wording without what tells no two apart: capitals, punctuation, what a slot is called."""
    text = re.sub(r"\{(other|right|other_thing)\}", "{b}", text)
    text = re.sub(r"\{(one|left|thing)\}", "{a}", text)
    return " ".join(re.sub(r"[^a-z{}_ ]", "", text.lower()).split())


def wordings(suite: Suite) -> dict[str, set[str]]:
    frames = ("styled", "plain", "pairs", "placed")
    groups = {
        "training": [text for name in frames for text in suite.training[name]],
        "tuning": [*suite.tuning_templates, *suite.tuning_templates_plain],
        "judging": [
            *suite.judge_templates,
            *suite.judge_templates_plain,
            *suite.judge_pairs,
            *suite.judge_pairs_placed,
        ],
        "strangers": [text for texts in suite.strangers.values() for text in texts],
    }
    return {name: {bare(text) for text in texts} for name, texts in groups.items()}


def test_no_wording_has_two_purposes(emoji: Suite) -> None:
    found = wordings(emoji)
    assert all(len(texts) >= 15 for texts in found.values())
    for one, other in combinations(found, 2):
        assert not found[one] & found[other], (one, other)


def test_an_overlap_is_found(emoji: Suite) -> None:
    stolen = emoji.model_copy(update={"judge_templates": ["In {style} style: {thing}!"]})
    found = wordings(stolen)
    assert found["training"] & found["judging"]


def test_captions_say_what_is_in_their_scenes(emoji: Suite) -> None:
    """Grounds and colours are named in every caption that says anything at all, slips of the pen aside."""
    captions, rng = Captions(emoji, ["table", "wander", "seldom"]), np.random.default_rng(0)
    styles, told, empty, named = list(emoji.styles), 0, 0, 0
    for i in range(2000):
        scene = random_scene(emoji, styles[i % len(styles)], emoji.objects[i % len(emoji.objects)], rng)
        caption = captions.write(scene, rng)
        empty += not caption.text
        if not caption.text:
            continue
        told += 1
        # A slip of the pen touches one word of a caption.
        for word in (scene.tint, scene.things[0].colour):
            named += bool(word) and word not in caption.text
    assert 0.05 < empty / 2000 < 0.12 and named < 0.02 * told


def test_held_out_pairs_are_in_no_scene(emoji: Suite) -> None:
    unseen, rng = set(emoji.held_out), np.random.default_rng(1)
    seen = [(it, style) for it in emoji.objects for style in emoji.styles if (it.name, style) not in unseen]
    scenes: list[Scene] = [random_scene(emoji, style, it, rng) for it, style in seen * 2]
    assert not {(thing.object.name, scene.style) for scene in scenes for thing in scene.things} & unseen
    assert any(len(scene.things) == 2 for scene in scenes)


def test_the_same_captions_again(emoji: Suite) -> None:
    def write() -> list[str]:
        rng, captions = np.random.default_rng(3), Captions(emoji, ["table"])
        return [captions.write(random_scene(emoji, "mono", it, rng), rng).text for it in emoji.objects]

    assert write() == write() and len(set(write())) > 100


def test_a_slip_of_the_pen_is_one_word(emoji: Suite) -> None:
    rng = np.random.default_rng(0)
    slips = {misspelt("draw the elephant", rng) for _ in range(40)}
    assert len(slips) > 8 and all(slip.startswith("draw the ") for slip in slips)
    assert misspelt("a dog", rng) == "a dog"


def test_a_suite_in_a_folder_names_the_file(tmp_path, emoji: Suite) -> None:
    (tmp_path / "suite.yaml").write_text("base: x\nconcepts: [dog]\nobjects: [{name: dog, group: target}]\n")
    (tmp_path / "wordings.yaml").write_text("judge_templates:\n  - '{thing}'\n")
    assert load_suite(tmp_path).judge_templates == ["{thing}"]
    (tmp_path / "wordings.yaml").write_text("\njudge_templates: 3\n")
    with pytest.raises(RegistryError, match=r"wordings\.yaml, line 2: judge_templates"):
        load_suite(tmp_path)
    (tmp_path / "twice.yaml").write_text("base: y\n")
    with pytest.raises(RegistryError, match="'base' stands in another file of the suite"):
        load_suite(tmp_path)
