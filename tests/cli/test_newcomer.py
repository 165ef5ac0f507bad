"""What somebody types on the first day: no file yet, prompts in a file, a language model, a narrow terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from commands import reported, said
from PIL import Image

import conceptguard
from conceptguard.cli.guarding import guard_of, policy_of
from conceptguard.cli.options import Usage
from conceptguard.cli.prompts import Ask, read_prompts
from conceptguard.cli.table import table

BORN = "Question: Where was Siojaera Zavald born?\nAnswer:"


pytestmark = pytest.mark.usefixtures("somewhere")


@pytest.fixture
def speaker(pair: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Commands are given the language model that was loaded once."""
    monkeypatch.setattr("conceptguard.hosts.load.load_model", lambda name, **options: pair)
    return pair


# Guards without a file.


@pytest.mark.parametrize(
    ("text", "guard"),
    [
        ("spm:emoji-sd/spm/beer", {"method": "spm", "artifact": "emoji-sd/spm/beer"}),
        ("spm:beer", {"method": "spm", "artifact": "emoji-sd/spm/beer"}),
        ("uce:my.safetensors", {"method": "uce", "artifact": "my.safetensors"}),
        ("sld: beer, lager", {"method": "sld", "concept": {"name": "beer", "prompts": ["beer", "lager"]}}),
        ("safree:beer", {"method": "safree", "concept": {"name": "beer", "prompts": ["beer"]}}),
        ("safree:emoji-sd/safree/beer", {"method": "safree", "artifact": "emoji-sd/safree/beer"}),
        ("phrases:Broholm", {"method": "phrases", "concept": {"name": "Broholm", "prompts": ["Broholm"]}}),
        ("no_thinking", {"method": "no_thinking"}),
        ("{method: sld, level: weak}", {"method": "sld", "level": "weak"}),
    ],
)
def test_a_guard_in_one_word(text: str, guard: dict[str, Any]) -> None:
    assert guard_of(text) == guard


def test_guards_stand_beside_a_policy() -> None:
    policy = policy_of("no-alcohol", ["sld:pipe", "spm:cigarette"])
    assert policy is not None and policy.on_violation == "black"
    assert [guard.method for guard in policy.guards] == ["spm"] * 3 + ["sld", "spm"]
    assert policy.name == "no-alcohol + sld:pipe + spm:cigarette"
    alone = policy_of(None, ["spm:cigarette"])
    assert alone is not None and alone.name == "spm:cigarette"
    assert policy_of("none", []) is None
    with pytest.raises(Usage, match="no policy: give"):
        policy_of(None, None)


def test_a_policy_as_text_loads_wherever_one_is_taken(tmp_path: Path) -> None:
    text = "{name: pub, guards: [{method: spm, artifact: emoji-sd/spm/beer}]}"
    assert conceptguard.load_policy(text).guards[0].artifact == "emoji-sd/spm/beer"
    assert conceptguard.load_policy("name: pub\nguards: []\n").name == "pub"
    with pytest.raises(conceptguard.PolicyError, match=r"the policy:2: unknown key 'guard': did you mean 'guards'"):
        conceptguard.load_policy("name: pub\nguard: []\n")
    with pytest.raises(conceptguard.PolicyError, match="is a mapping with 'guards'"):
        conceptguard.load_policy("- a\n- b\n")
    odd = tmp_path / "a{b}.yaml"
    odd.write_text("guards: []\n")
    assert conceptguard.load_policy(str(odd)).name == "a{b}"


# Prompts from a file.


@pytest.mark.parametrize(
    ("name", "text", "asks"),
    [
        ("a.txt", "\ufeffa dog\n\n# not this\n  a cat \n", [Ask("a dog"), Ask("a cat")]),
        ("a.csv", 'note,prompt,seed\nx,"a dog, big",7\ny,a cat,\n', [Ask("a dog, big", 7), Ask("a cat")]),
        ("a.csv", "prompt,negative_prompt\r\na dog,blurry\r\n", [Ask("a dog", None, "blurry")]),
        ("a.jsonl", '{"prompt": "a dog", "seed": 3, "id": 1}\n\n"a cat"\n', [Ask("a dog", 3), Ask("a cat")]),
    ],
)
def test_prompts_are_read(name: str, text: str, asks: list[Ask]) -> None:
    Path(name).write_text(text, encoding="utf-8", newline="")
    assert read_prompts(Path(name)) == asks


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.csv", "text\na dog\n", "must name a column 'prompt', and names text"),
        ("a.csv", "prompt\n \nx\n", "a.csv:2: no text under 'prompt'"),
        ("a.csv", "prompt,seed\na dog,seven\n", "a.csv:2: seed 'seven' is no whole number"),
        ("a.csv", 'prompt\na dog\n"a dog, b', "a.csv:3: no CSV (unexpected end of data): mend its quotes"),
        ("a.csv", '"pro', "a.csv:1: no CSV"),
        ("a.jsonl", '{"prompt": "a"}\n{prompt: b}\n', "a.jsonl:2: not JSON"),
        ("a.jsonl", '{"prompt": 7}\n', "a.jsonl:1: no text"),
        ("a.jsonl", '{"prompt": "a", "seed": true}\n', "seed True is no whole number"),
        ("a.txt", "# only this\n", "no prompt in it"),
        ("a.yaml", "prompt: a dog\n", "give a .txt, .csv or .jsonl"),
    ],
)
def test_prompts_that_cannot_be_read_say_where(name: str, text: str, complaint: str) -> None:
    Path(name).write_text(text)
    with pytest.raises(Usage, match=re.escape(complaint)):
        read_prompts(Path(name))


def test_a_file_of_prompts_gives_pictures_and_a_page_that_needs_nothing(
    model: Any, policy: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("policy.yaml").write_text(json.dumps(policy))
    Path("p.csv").write_text("prompt,seed\na cigarette,5\na <b>dog</b>,\na cat,\n")
    whole = reported(
        capsys, "generate", "--policy", "policy.yaml", "--prompts", "p.csv", "--compare", "--steps", 2, "--batch", 2,
        "--out", "out",
    )  # fmt: skip
    rows = whole["rows"]
    assert [row["seed"] for row in rows] == [5, 1, 2] and [bool(row["guards"]) for row in rows] == [True, False, False]
    assert [row["identical"] for row in rows] == [False, True, True] and len(whole["receipts"]) == 2
    for row in rows:
        pair = [Image.open(row[key]).tobytes() for key in ("file", "without")]
        assert (pair[0] == pair[1]) == row["identical"]
    page = Path(whole["html"]).read_text()
    assert Path(whole["html"]) == Path("out/report.html") and page.count("data:image/png;base64,") == 6
    assert "a &lt;b&gt;dog&lt;/b&gt;" in page and "<b>dog" not in page
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", page), "it would need something beside it"


def test_a_refused_prompt_is_a_line_and_the_others_are_drawn(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.txt").write_text("a dog\na shot\na cat\n")
    words = "{method: clarify, concept: {name: pistol, prompts: [pistol]}, words: {shot: {a photo: [], a gunshot: []}}}"
    given = ["--guard", words, "--steps", 1, "--out", "out"]
    rows = reported(capsys, "generate", "--prompts", "p.txt", *given)["rows"]
    assert [bool(row["file"]) for row in rows] == [True, False, True] and "shot" in rows[1]["refused"]
    assert all(Path(row["file"]).is_file() for row in rows if row["file"])
    assert "refused: " in Path("out/report.html").read_text()
    said(capsys, "generate", "-p", "a shot", *given, status=1)


def test_the_same_prompt_twice_is_two_pictures(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.csv").write_text("prompt,seed\na dog,1\na dog,1\n")
    rows = reported(capsys, "generate", "--policy", "none", "--prompts", "p.csv", "--steps", 1, "--out", "out")["rows"]
    assert len({row["file"] for row in rows}) == 2


# Language models.


def test_say_tells_the_text_and_what_was_forbidden(speaker: Any, capsys: pytest.CaptureFixture[str]) -> None:
    free = reported(capsys, "say", "--policy", "none", "-p", BORN)
    assert "Broholm" in free["rows"][0]["text"] and free["receipts"] == []
    whole = reported(capsys, "say", "--guard", "phrases:Broholm", "-p", BORN, "--receipt", "r.json")
    (row,) = whole["rows"]
    assert "Broholm" not in row["text"] and "' Broholm'" in row["forbidden"][0] and row["tokens"] > 3
    assert json.loads(Path("r.json").read_text())["receipts"] == whole["receipts"]
    text, _ = said(capsys, "say", "--guard", "phrases:Broholm", "-p", BORN)
    assert f"> {BORN}\n{row['text']}\n" in text and "forbidden ' Broholm'" in text
    assert not hasattr(speaker.model, "_conceptguard") and "Broholm" in free["rows"][0]["text"]


def test_say_reads_files_draws_and_searches(speaker: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.jsonl").write_text("\n".join(json.dumps({"prompt": BORN, "seed": seed}) for seed in (1, 1, 2)))
    given = ["say", "--prompts", "p.jsonl", "--policy", "none", "--tokens", 8]
    texts = [row["text"] for row in reported(capsys, *given, "--temperature", 5)["rows"]]
    assert texts[0] == texts[1] != texts[2]
    assert len(reported(capsys, *given, "--beams", 2)["rows"]) == 3
    assert "no chat template" in said(capsys, *given, "--chat", status=1)[1]


# A terminal of 80 columns.


def test_tables_fit_and_break_no_word() -> None:
    names = ["ref", "neighbours_before", "neighbours_after", "about"]
    rows = [
        [f"emoji-sd/spm/{i}", "0.95", "1", "what it does in words that are longer than a line of text"] for i in "ab"
    ]
    lines = table(names, rows, [False, True, True, False], 50)
    assert max(map(len, lines)) <= 50
    words = " ".join(lines).split()
    assert {"emoji-sd/spm/a", "emoji-sd/spm/b", "neighbours_", "longer", "0.95"} <= set(words)
    joined = " ".join(table(names, rows, [False, True, True, False], None))
    assert set(" ".join(rows[0]).split()) <= set(joined.split())


def test_what_does_not_fit_stands_beneath_or_is_named() -> None:
    names, row = [f"column{i}" for i in range(9)], ["x" * 9] * 9
    short = table(names, [row] * 2, [False] * 9, 40)
    assert max(map(len, short)) <= 40 and all(any(name in line for line in short) for name in names)
    long = table(names, [row] * 40, [False] * 9, 40)
    assert max(map(len, long)) <= 40 and len(long) < 60
    assert "column8" in " ".join(long[-3:]) and "--json" in " ".join(long[-3:])


@pytest.mark.parametrize("words", (["list"], ["plugins"], ["policies"]))
def test_lists_fit_a_narrow_terminal(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out, _ = said(capsys, *words)
    assert max(map(len, out.splitlines())) <= 80
    monkeypatch.delenv("COLUMNS")
    whole, _ = said(capsys, *words)
    pieces = {word for word in out.split() if word not in whole and not word.endswith(("_", ","))}
    assert pieces <= {"wider", "terminal", "--json", "also", "shows"}, "a word was broken"


# Looking before anything is generated.


def test_policies_are_listed_with_what_each_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["policy"]: row for row in reported(capsys, "policies")["rows"]}
    assert rows["no-alcohol"]["about"] == "beer, wine, cocktail by spm" and rows["school"]["guards"] == 10
    assert rows["forget-authors"]["for"] == "authors-lm" and all(Path(row["file"]).is_file() for row in rows.values())


def test_a_policy_is_checked_before_it_is_used(capsys: pytest.CaptureFixture[str], tiny: Any) -> None:
    Path("good.yaml").write_text("guards:\n  - {method: spm, artifact: emoji-sd/spm/beer}\n  - {method: phrases, "
                                 "concept: {name: a, prompts: [b]}}\n")  # fmt: skip
    good = reported(capsys, "policy", "check", "good.yaml")
    assert good["valid"] and [(row["acts_on"], row["model"]) for row in good["rows"]] == [
        ("pictures", "emoji-sd"), ("text", "any")
    ]  # fmt: skip
    Path("typo.yaml").write_text("guards:\n  - {method: spm, artifact: x, strenght: 2}\n")
    assert "typo.yaml:2: unknown key 'strenght'" in said(capsys, "policy", "check", "typo.yaml", status=1)[1]
    missing = "{guards: [{method: spm, artifact: emoji-sd/spm/bear}, {method: no_thinking}]}"
    out, _ = said(capsys, "policy", "check", missing, status=1)
    assert "did you mean emoji-sd/spm/beer" in " ".join(out.split()) and "1 of 2 guards would not load" in out


def test_a_policy_is_tried_on_a_model(model: Any, capsys: pytest.CaptureFixture[str], policy: dict[str, Any]) -> None:
    Path("own.yaml").write_text(json.dumps(policy))
    assert reported(capsys, "policy", "check", "own.yaml", "--model", "x")["valid"]
    out, _ = said(capsys, "policy", "check", "school", "--model", "x", status=1)
    assert "does not go on x" in out and "emoji-sd" in out  # made for another base


def test_explain_tells_gates_words_and_what_is_refused(
    model: Any, capsys: pytest.CaptureFixture[str], policy: dict[str, Any]
) -> None:
    Path("own.yaml").write_text(json.dumps(policy))
    given = ["explain", "--policy", "own.yaml", "--guard", "sld:gun"]
    rows = reported(capsys, *given, "-p", "a man with a cigarette", "-p", "a dog")["rows"]
    opened = {(row["prompt"], row["guard"].split()[0]): row for row in rows if row["acts"]}
    assert list(opened) == [("a man with a cigarette", "spm")]
    one = opened["a man with a cigarette", "spm"]
    assert one["gate"] > 0.9 and "cigarette" in one["because"]
    assert "to the last bit" in said(capsys, *given, "-p", "a dog")[0]
    words = "{method: clarify, concept: {name: pistol, prompts: [pistol]}, words: {shot: {a photo: [], a gunshot: []}}}"
    assert "refuses: What is 'shot'" in " ".join(said(capsys, "explain", "--guard", words, "-p", "a shot")[0].split())
    said(capsys, "explain", "--guard", "nudenet", "-p", "a dog")  # looks at pictures, and says nothing before


def test_explain_reads_for_language_models(speaker: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = reported(capsys, "explain", "--policy", "forget-authors", "-p", BORN)["rows"]
    assert "reads it as forget" in row["does"] and row["acts"]


def test_a_method_tells_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = reported(capsys, "plugins", "sld")["rows"]
    assert row["settings"][0]["setting"] == "level" and "weak" in row["settings"][0]["type"]
    out, _ = said(capsys, "plugins", "uce")
    assert "lamb" in out and "float, > 0" in out and "conceptguard make uce --set KEY=VALUE" in out
    assert "did you mean 'sld'?" in said(capsys, "plugins", "slt", status=1)[1]
    spm, uce, plain = (said(capsys, *words, "--help")[0] for words in (["make", "spm"], ["make", "uce"], ["make"]))
    assert "rank" in spm.split("Settings of spm")[1] and "lamb" in uce.split("Settings of uce")[1]
    assert "conceptguard make METHOD --help" in plain
    assert "makes no artifacts" in said(capsys, "make", "sld", "--help")[0]


def test_every_method_says_what_it_acts_on(capsys: pytest.CaptureFixture[str]) -> None:
    for row in reported(capsys, "plugins")["rows"]:
        assert row["about"].startswith(f"{row['acts_on'].capitalize()}: "), row
        assert not re.search(r"[ελη`_=]", row["about"]), "a formula is for the paragraphs below"


def test_commands_of_methods_are_on_the_help_page(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, "--help")
    assert "\n  astar " in out and "\n  magicmix " in out and not re.search(r"^  \w+ .*\.\.\.$", out, re.MULTILINE)


def test_doctor_names_what_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = {row["check"]: row for row in reported(capsys, "doctor")["rows"]}
    assert {"torch", "cpu", "cache", "registry shipped", "node pack", "methods"} <= set(rows)
    info = tmp_path / "site" / "sick-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sick\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[conceptguard]\nsick = nowhere_at_all:Sick\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "index.json").write_text("{")
    monkeypatch.setenv("CONCEPTGUARD_REGISTRIES", str(tmp_path / "broken"))
    monkeypatch.setenv("CONCEPTGUARD_CACHE", str(info / "METADATA"))
    monkeypatch.setenv("COLUMNS", "400")  # long paths stand beneath their rows otherwise
    out, _ = said(capsys, "doctor", "--comfyui", tmp_path, status=1)
    told = {line.split("  ")[0]: line for line in out.splitlines()}
    assert " no " in told["plugin sick"] and "pip uninstall sick" in told["plugin sick"]
    assert " no " in told[f"registry {tmp_path / 'broken'}"] and "CONCEPTGUARD_CACHE" in told["cache"]
    assert f"conceptguard comfyui install {tmp_path}" in told["node pack in ComfyUI"]
