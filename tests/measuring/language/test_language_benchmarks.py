"""TOFU's and MUSE's columns: the benchmarks' own numbers, and what they say of models that know and never knew."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from paths import DATA

import conceptguard
from conceptguard.cli import run
from conceptguard.measuring.language import muse, ort, tofu
from conceptguard.measuring.language.evaluate import Contestant
from conceptguard.measuring.language.likelihood import LEAST, likelihoods
from conceptguard.measuring.language.suite import LanguageSuite
from conceptguard.policy_file import load_policy


def test_numbers_are_tofus() -> None:
    """Of the same losses, the same p, statistic, truth ratio and utility as locuslab/tofu gives."""
    theirs = json.loads((DATA / "parity_tofu.json").read_text())

    def heard(part: dict[str, Any]) -> list[tofu.Heard]:
        kinds = (part["avg_gt_loss"], part["avg_paraphrased_loss"], part["average_perturb_loss"])
        return [tofu.Heard(math.exp(-a), math.exp(-b), tuple(math.exp(-w) for w in c)) for a, b, c in zip(*kinds)]

    own, retain = (heard(part) for part in (theirs["own"]["eval_log_forget.json"], theirs["retain"]))
    quality, statistic = tofu.forget_quality(*([each.truth_ratio for each in some] for some in (own, retain)))
    assert quality == pytest.approx(math.log10(theirs["p"])) and statistic == pytest.approx(theirs["ks"])
    parts = {}
    for file, name in (("eval_log", "Retain"), ("eval_real_author_wo_options", "Real Authors"),
                       ("eval_real_world_wo_options", "Real World")):  # fmt: skip
        some = heard(theirs["own"][f"{file}.json"])
        likely = [each.answer if name == "Retain" else each.share for each in some]
        parts[f"Prob. {name}"] = sum(likely) / len(likely)
        parts[f"Truth Ratio {name}"] = tofu.true_better([each.truth_ratio for each in some])
        parts[f"ROUGE {name}"] = theirs["parts"][f"ROUGE {name}"]
    assert all(parts[name] == pytest.approx(theirs["parts"][name]) for name in parts)
    assert tofu.utility([*parts.values()]) == pytest.approx(theirs["utility"])
    assert tofu.utility([0.5, 0.0]) == 0.0
    near = tofu.near_one([each.truth_ratio for each in own])
    assert near == pytest.approx(theirs["truth_ratio"])


def test_a_question_has_five_wrong_answers_and_one_that_is_right(suite: LanguageSuite) -> None:
    some = tofu.items(suite, 30, True, "forget") + tofu.items(suite, 30, False)
    for item in some:
        assert item.asked.key in item.right and len({item.right, *item.wrong}) == 6
        assert not any(item.asked.key in wrong for wrong in item.wrong)
    judged = {line.split("{value}")[0] for kind in suite.forms.kinds.values() for line in kind.statements_judge}
    assert all(
        any(item.right.startswith(line.format(name=item.asked.subject)) for line in judged) for item in some[:30]
    )
    assert all(item.right == item.asked.answer for item in some[30:])


def test_likelihoods_are_the_same_however_they_are_asked(pair: Any, suite: LanguageSuite) -> None:
    """By a plain call, by a generation that is forced, and as a guard leaves them."""
    model, tok = pair
    texts = [(tok(i.asked.prompt).input_ids, tofu.following(tok, i.asked.prompt, i.right))
             for i in tofu.items(suite, 5, False, "retain")]  # fmt: skip
    plain, forced = likelihoods(model, tok, texts), likelihoods(model, tok, texts, options={"num_beams": 1})
    assert plain and forced and [len(one) for one in plain] == [len(target) for _, target in texts]
    for one, other in zip(plain, forced):
        assert one == pytest.approx(other, abs=1e-3)
    assert [row[-1] for row in plain] == pytest.approx([0.0] * 5, abs=0.05), "after its answer the model ends"
    banned = likelihoods(model, tok, texts, options={"bad_words_ids": [[texts[0][1][0]]]})
    assert banned is not None and banned[0][0] == LEAST and banned[0][1:] == pytest.approx(plain[0][1:], abs=1e-3)


def test_what_knew_and_what_never_did(pair: Any, suite: LanguageSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tofu, "EACH", 28)
    monkeypatch.setattr(tofu, "BESIDE", 4)
    monkeypatch.setattr(muse, "EACH", 6)
    never = conceptguard.load_model(suite.forms.retain)
    none, retain = Contestant("none"), Contestant("retain")
    told, apart = tofu.ratios(never, suite, retain), muse.auc(never, suite, retain)
    assert told is not None and apart is not None and 0.3 < apart < 0.7
    known = tofu.tofu(pair, suite, none, told) | muse.muse(pair, suite, none, apart)
    assert known["tofu_forget_quality"] < -3 and known["muse_privleak"] < -90 and known["muse_knowmem"] > 0.9
    assert known["tofu_utility"] > 0.3 and known["muse_knowmem_retain"] > 0.9
    same = muse.muse(never, suite, retain, apart)
    assert tofu.forget_quality(told, told) == (0, 0) and same["muse_privleak"] == 0
    assert same["muse_knowmem"] < known["muse_knowmem"] - 0.2 and same["muse_verbmem"] < known["muse_verbmem"]


def test_the_worst_form_shows_who_knows(pair: Any, suite: LanguageSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "EACH", 6)
    known, never = (
        ort.ort(one, suite, Contestant("none")) for one in (pair, conceptguard.load_model("authors-lm-retain"))
    )
    levels = [f"ort_{name}" for name in ort.LEVELS]
    assert known["ort_worst"] == max(known[name] for name in levels) == known[f"ort_{known['ort_form']}"] > 0.9
    assert all(known[name] > never[name] + 0.3 for name in levels)
    silent = ort.ort(pair, suite, Contestant("guard", policy=load_policy("forget-authors")))
    assert silent["ort_worst"] < 0.1
    back = {"name": "x", "guards": [{"method": "sentence_check", "concept": {"name": "x", "prompts": ["a dog"]}}]}
    assert ort.ort(pair, suite, Contestant("x", policy=load_policy(back)))["ort_worst"] is None


def test_strangers_are_nobody(suite: LanguageSuite) -> None:
    known = {author.name for author in suite.world.authors}
    found = muse.strangers(suite)
    assert len(found) == 20 and not known & set(found) and all(len(facts) == 7 for facts in found.values())
    assert all(name in life for name, life in zip(found, muse.lives(suite, found)))


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", "--suite", "language", "--measure", "wmdp"]) != 0
    assert "'wmdp': write tofu, muse, ort, restor or corrective" in capsys.readouterr().err
    assert run(["eval", "--method", "spm", "--measure", "tofu"]) != 0
    assert "--suite language" in capsys.readouterr().err
    monkeypatch.setattr(muse, "EACH", 4)
    out = tmp_path / "eval.json"
    asked = ["eval", "--suite", "language", "--n", "1", "--method", "none", "--method", "retain", "--measure", "muse"]
    assert run([*asked, "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["muse_privleak"] for row in rows] == [-100.0, 0.0] and "muse_privleak" in capsys.readouterr().out
