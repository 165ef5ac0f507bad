"""A report card: figures from real pictures, a page that a real browser opens without a network, and earlier reports
that are taken up only where they are of the same policy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import reported, said
from page import Unavailable, chromium

from conceptguard import Method, hookimpl
from conceptguard.attack import Budget
from conceptguard.errors import Refused
from conceptguard.generation.conditioning import Prompts
from conceptguard.measuring.judges import load_judges
from conceptguard.measuring.report import figures
from conceptguard.measuring.report.cost import cost
from conceptguard.measuring.report.pairs import asked_for, draw_pairs
from conceptguard.measuring.samples import Recipe
from conceptguard.measuring.shares import wilson
from conceptguard.measuring.suite import load_suite
from conceptguard.policy_file import load_policy
from conceptguard.testing.kit_guards import offered

WORDS = ["--guard", "spm:cigarette", "--concepts", "cigarette", "--n", "2", "--steps", "8", "--guidance", "3.5"]


class NoDogs(Method):
    """Refuses every prompt that names a dog."""

    name = "no-dogs"
    needs = "nothing"

    @hookimpl
    def encode_prompt(self, prompts: Prompts) -> None:
        if any("dog" in (text or "") for text in prompts.texts):
            raise Refused("no dogs here")


@pytest.fixture(scope="module")
def made(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], Path]]:
    """(what --json wrote, the folder of the page, with a report of redteam beside it)."""
    from conceptguard.cli import run

    folder = tmp_path_factory.mktemp("report")
    tiny = Budget(asks=1, pictures=2, iterations=1, check=1, population=24, generations=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONCEPTGUARD_CACHE", str(folder / "cache"))
        patch.setattr("conceptguard.hosts.load.load_model", lambda name, **options: pipe)
        patch.setattr("conceptguard.attack.BUDGETS", {"small": tiny, "default": tiny})
        attacks = ["--attack", "random", "--attack", "paraphrase"]
        files = ["--out", str(folder / "card.html"), "--json", str(folder / "card.json")]
        assert run(["report", *WORDS, *attacks, *files]) == 0
        without_n = [word for word in WORDS if word not in ("--n", "2")]
        assert run(["redteam", *without_n, *attacks, "--json", str(folder / "attacked.json")]) == 0
        yield json.loads((folder / "card.json").read_text()), folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        with chromium() as found:
            yield found
    except Unavailable as why:
        pytest.skip(f"no browser here: {why}")


def test_figures_are_of_the_pictures(made: tuple[dict[str, Any], Path]) -> None:
    whole, _ = made
    (row,) = whole["rows"]
    shown = [one for one in whole["pictures"] if one["group"] == "erased"]
    assert row["n_erased"] == len(shown) == 2 and row["n_others"] == 4 and row["n"] == 8
    for when in ("before", "after"):
        hits = sum(one[f"shown_{when}"] for one in shown)
        assert row[f"erased_{when}"] == hits / 2
        assert (row[f"erased_{when}_low"], row[f"erased_{when}_high"]) == wilson(hits, 2)
    assert row["erased_before"] == 1.0 and row["erased_after"] == 0.0, "the shipped membrane erases"
    assert all("spm" in one["acted"] for one in shown) and not any(one["identical"] for one in shown)
    others = [one for one in whole["pictures"] if one["group"] == "others"]
    assert row["identical"] == 1.0 and all(one["identical"] and not one["acted"] for one in others)
    assert [one["attack"] for one in whole["attacks"]] == ["unattacked", "random", "paraphrase"]
    assert row["attack"] in ("random", "paraphrase") and row["attacks"] == 2 and row["low"] <= row["asr"] <= row["high"]
    assert [one["repeats"] for one in whole["cost"]] == [3, 3]
    assert all(0.5 < one["ratio_bare"] < 3 for one in whole["cost"])
    acted = [act["guard"] for one in whole["receipts"] for act in one["acts"] if act["steps"]]
    assert acted and all(guard.startswith("spm") for guard in acted)


def test_it_says_what_it_does_not_know(made: tuple[dict[str, Any], Path]) -> None:
    whole, folder = made
    missing = " ".join(whole["not_tested"])
    assert "p4d" in missing and "no white-box attack" in missing and "random" not in missing
    states = {one["name"]: one["state"] for one in whole["open_problems"]}
    assert {"Intent", "Dual use", "Side effects", "Interplay with other guards", "Relearning"} <= states.keys()
    assert states["Dual use"] == states["Relearning"] == "open"
    found = json.loads((folder / "attacked.json").read_text())["rows"][1]["found"][0]["attempts"]
    page = (folder / "card.html").read_text()
    assert not any(text in page for text in found), "a page that is sent around is no list of recipes"
    assert not any("found" in one for one in whole["attacks"])


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_opens_from_disk_without_a_network(
    made: tuple[dict[str, Any], Path], browser: Any, width: int, tmp_path: Path
) -> None:
    """Alone in a folder; whatever it would ask for is refused, and told."""
    alone = tmp_path / "sent.html"
    alone.write_bytes((made[1] / "card.html").read_bytes())
    page = browser.new_page(viewport={"width": width, "height": 844})
    asked: list[str] = []
    told: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.context.set_offline(True)
    page.goto(alone.as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [alone.as_uri()] and not told
    drawn = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth > 0)")
    assert len(drawn) >= 16 and all(drawn)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the window"
    sides = page.evaluate(
        "[...document.querySelectorAll('.pairs img')].map(image => image.getBoundingClientRect().width)"
    )
    assert min(sides) >= 100, "large enough to see what is in it"
    sizes = page.evaluate("[...document.querySelectorAll('td, p, small, figcaption')].map("
                          "part => parseFloat(getComputedStyle(part).fontSize))")  # fmt: skip
    assert min(sizes) >= 12
    assert page.inner_text("h1") == "Report card: spm:cigarette on emoji-sd"
    heads = page.eval_on_selector_all("h2", "all => all.map(one => one.innerText)")
    assert {"Erased and kept", "Attacked", "What it costs", "What was not tested", "Receipts"} <= set(heads)
    page.click("summary")
    assert page.is_visible("details pre") and "spm emoji-sd/spm/cigarette" in page.inner_text("details pre")
    page.close()


def test_what_comes_from_elsewhere_is_text(made: tuple[dict[str, Any], Path]) -> None:
    from conceptguard.measuring.report.card import Card
    from conceptguard.measuring.report.page import page

    evil = "<script>alert(1)</script>"
    note = {"concept": evil, "attack": evil, "asr": None, "note": evil}
    row = made[0]["rows"][0] | {"concept": evil, "attack": evil}
    card = Card(evil, evil, load_policy({"name": evil, "guards": []}), {evil: evil}, [row], [], [note], untested=[evil])
    assert "<script" not in page(card) and page(card).count("&lt;script&gt;") >= 8


def test_attacks_of_an_earlier_report(
    pipe: Any, made: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Taken up as they are, and of no other policy, model or concept."""
    monkeypatch.setattr("conceptguard.hosts.load.load_model", lambda name, **options: pipe)
    attacked = made[1] / "attacked.json"
    monkeypatch.setattr("conceptguard.attacking.run._attacked", lambda *given: pytest.fail("attacked anew"))
    quick = [*WORDS[:4], "--n", "1", "--steps", "2", "--out", tmp_path / "card.html"]
    whole = reported(capsys, "report", *quick, "--redteam", attacked)
    rows = json.loads(attacked.read_text())["rows"]
    assert [one["asr"] for one in whole["attacks"]] == [one["asr"] for one in rows]
    assert str(attacked) in (tmp_path / "card.html").read_text()
    for changes, said_so in (
        ({"policy": {"name": "other"}}, "another policy"),
        ({"files": {"emoji-sd/spm/cigarette": ["0"]}}, "other artifacts"),
        ({"rows": [{**rows[0], "model": "another"}]}, "nothing in it about cigarette"),
        ({"command": "eval"}, "no report of"),
    ):
        (tmp_path / "wrong.json").write_text(json.dumps({**json.loads(attacked.read_text()), **changes}))
        _, err = said(capsys, "report", *quick, "--redteam", tmp_path / "wrong.json", status=2)
        assert said_so in err and len(err.splitlines()) == 1
    (tmp_path / "cut.json").write_text(attacked.read_text()[:100])
    _, err = said(capsys, "report", *quick, "--redteam", tmp_path / "cut.json", status=2)
    assert "write it anew" in err


def test_figures_of_an_earlier_report(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("conceptguard.hosts.load.load_model", lambda name, **options: pipe)
    rules = tmp_path / "mine.yaml"
    rules.write_text("{name: mine, guards: [{method: spm, artifact: emoji-sd/spm/cigarette}]}")
    judged = tmp_path / "judged.json"
    said(capsys, "eval", "--policy", rules, "--n", "3", "--steps", "2", "--json", judged)
    common = ["report", "--policy", rules, "--n", "1", "--steps", "2", "--attack", "none", "--out", tmp_path / "c.html"]
    whole = reported(capsys, *common, "--eval", judged)
    (row,) = whole["rows"]
    assert row["n_erased"] == 3 and row["n_others"] == 6 and row["n"] == 12 and "asr" not in row
    assert row["others_after_high"] == wilson(round(row["others_after"] * 6), 6)[1]
    page = (tmp_path / "c.html").read_text()
    assert "a promise" in page and "nobody checked" in page
    old = json.loads(judged.read_text())
    old["rows"] = [{key: value for key, value in one.items() if key != "n_erased"} for one in old["rows"]]
    judged.write_text(json.dumps(old))
    _, err = said(capsys, *common, "--eval", judged, status=2)
    assert "older version" in err


def test_what_is_refused_is_no_picture_and_the_rest_is_drawn(pipe: Any) -> None:
    suite, recipe = load_suite("emoji-sd"), Recipe(2, 3.5, 8)
    with offered(NoDogs) as guard:
        rules = load_policy({"name": "dogless", "guards": [guard]})
        asked = asked_for(suite, ["cigarette"], ["cigarette"], 2)
        pairs, receipts = draw_pairs(pipe, load_judges(suite), rules, asked, recipe)
        refused = [one for one in pairs if one.refused]
        assert refused and all("dog" in one.sample.prompt and one.after is None for one in refused)
        assert not any(one.shown_after for one in refused) and len(pairs) > len(refused) and receipts
        alone = [one for one in pairs if one.group == "others" and not one.refused]
        assert alone and all(one.after is not None and one.identical is None for one in alone), "another batch"
        assert all(one.identical for one in pairs if one.group != "others")
        row = figures.shares("others", [one for one in pairs if one.group == "others"])
        assert row["n_others"] == 4
        dog = next(one.sample for one in refused)
        (timed,) = cost(pipe, rules, {"a dog": dog}, Recipe(1, 3.5, 1), repeats=1)
        assert timed["ratio_bare"] is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--policy none", "is about a policy"),
        ("--guard spm:cigarette --attack none --attack random", "leave it, or the others, out"),
        ("--guard spm:cigarette --attack random --redteam x.json", "leave one of them out"),
        ("--guard spm:cigarette --redteam nowhere.json", "cannot be read"),
        ("--guard spm:cigarette --concepts beer", "guards cigarette"),
    ],
)
def test_wrong_words_are_one_line(words: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = said(capsys, "report", *words.split(), status=2)
    assert told in err and len(err.splitlines()) == 1
