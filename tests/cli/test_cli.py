"""The command line as a person meets it: figures, pictures and receipts when it works, one line when it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from commands import reported, said
from random_artifacts import membrane
from safetensors.torch import save_file

from conceptguard import hookimpl, plugins

PNG = b"\x89PNG"


@pytest.fixture
def policy(tmp_path: Path, tiny: Any) -> Path:
    """A policy file with one membrane about cigarettes."""
    return write_policy(tmp_path, membrane(tmp_path / "artifacts", tiny))


def write_policy(folder: Path, *guards: dict[str, Any], **more: Any) -> Path:
    path = folder / "policy.yaml"
    path.write_text(yaml.safe_dump({"guards": list(guards), **more}))
    return path


@pytest.mark.parametrize("words", (["--help"], ["--version"], ["list"], ["generate", "--help"]))
def test_start_up_imports_nothing_heavy(words: list[str]) -> None:
    heavy = "{'torch', 'diffusers', 'transformers', 'pluggy', 'PIL', 'numpy'}"
    code = f"import sys; from conceptguard.cli import run; run({words}); sys.exit(str({heavy} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1] == "set()"


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, "--help")
    names = ("demo", "generate", "make", "eval", "redteam", "bench", "list", "show", "plugins")
    assert all(f"\n  {name} " in out for name in names)
    for name in names:
        out, _ = said(capsys, name, "--help")
        assert name in ("bench", "list", "show") or f"conceptguard {name}" in out.split("Options:")[0]


def test_generate_writes_pictures_receipt_and_json(
    model: Any, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = reported(
        capsys, "generate", "--policy", policy, "-p", "a cigarette", "-p", "a dog", "--images-per-prompt", 2,
        "--negative-prompt", "blurry", "--steps", 2, "--out", tmp_path / "out", "--receipt", tmp_path / "receipt.json",
    )  # fmt: skip
    assert [row["seed"] for row in whole["rows"]] == [0, 1, 2, 3]
    assert [bool(row["guards"]) for row in whole["rows"]] == [True, True, False, False]
    assert all(Path(row["file"]).read_bytes().startswith(PNG) for row in whole["rows"])
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    assert receipt == whole["receipt"] and receipt["steps"] == 2
    assert {row["branch"] for row in receipt["rows"]} == {"conditional", "negative"}


def test_generate_under_a_policy_is_the_unguarded_picture_for_unrelated_prompts(
    model: Any, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = {}
    for name in (str(policy), "none"):
        for prompt in ("a dog", "a cigarette"):
            out = tmp_path / "picture.png"
            text, _ = said(capsys, "generate", "--policy", name, "-p", prompt, "--steps", 2, "--out", out)
            assert ("nothing was guarded" in text) == (name == "none")
            pictures[name, prompt] = out.read_bytes()
    assert pictures[str(policy), "a dog"] == pictures["none", "a dog"]
    assert pictures[str(policy), "a cigarette"] != pictures["none", "a cigarette"]


def test_make_then_use(model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keep.txt").write_text("guitar\nviolin\n")
    whole = reported(
        capsys, "make", "uce", "--concept", "trumpet", "--prompts", "trumpet, horn", "--preserve",
        f"@{tmp_path / 'keep.txt'}", "--set", "lamb=0.5", "--out", tmp_path / "made",
    )  # fmt: skip
    (row,) = whole["rows"]
    assert row["bytes"] > 0 and row["make_seconds"] > 0
    manifest = yaml.safe_load((Path(row["folder"]) / "artifact.yaml").read_text())
    assert manifest["concept"]["prompts"] == ["trumpet", "horn"]
    assert manifest["made"]["preserve"] == ["guitar", "violin"] and manifest["made"]["settings"]["lamb"] == 0.5
    path = write_policy(tmp_path, {"method": "uce", "artifact": row["folder"]})
    out, _ = said(capsys, "generate", "--policy", path, "-p", "a trumpet", "--steps", 1, "--out", tmp_path / "o")
    assert "open 1.00 on 'a trumpet'" in out


def test_plugins_names_methods_and_who_brings_them(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["method"]: row for row in reported(capsys, "plugins")["rows"]}
    assert rows["spm"]["makes"] and rows["uce"]["makes"] and rows["spm"]["package"].startswith("conceptguard ")


def test_a_plugin_adds_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    class Greeter:
        @hookimpl
        def commands(self, app: typer.Typer) -> None:
            @app.command("greet")
            def greet() -> None:
                print("good day")

    plugins.plugin_manager().register(Greeter(), name="greeter")
    try:
        assert said(capsys, "greet")[0] == "good day\n"
        assert "did you mean 'greet'?" in said(capsys, "geet", status=2)[1]
        assert "greet" in said(capsys, "plugins")[0]
    finally:
        plugins.plugin_manager().unregister(name="greeter")


def test_bench_overhead_adds_the_same_terms_as_its_peers(
    model: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("conceptguard.benchmarks.subjects.load_model", lambda name, **options: model)
    rows = reported(capsys, "bench", "overhead", "--n", "3", "--open", "0,1,all", "--repeats", 2)["rows"]
    assert [(row["open"], row["peer"]) for row in rows] == [
        (0, ""), (1, "peft"), (1, "official"), (3, "peft"), (3, "official"),
    ]  # fmt: skip
    assert all(row["ratio_bare"] > 0 and row["bytes"] > 0 and row["n"] == 3 for row in rows)
    same = [row["difference"] for row in rows if row.get("difference") is not None]
    assert len(same) == 3 and max(same) < 1e-5


def test_bench_overhead_of_one_method_times_images_and_its_peer(
    pipe: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("conceptguard.benchmarks.subjects.load_model", lambda name, **options: pipe)
    monkeypatch.setattr("conceptguard.benchmarks.images.STEPS", 2)
    words = ["bench", "overhead", "--method", "safree", "--set", "schedule=false", "--repeats", 1]
    named, other, peer = reported(capsys, *words)["rows"]
    assert (named["open"], named["acted"]) == (1, 2) and (other["open"], other["acted"]) == (0, 0)
    assert named["ratio_bare"] > 0 and peer["ratio_peer"] < 1 and peer["difference"] < 1e-5
    looked = reported(capsys, "bench", "overhead", "--method", "probe", "--repeats", 1)["rows"]
    assert [row["looks"] for row in looked] == [1, 1] and all(row["ratio_bare"] > 0 for row in looked)


# Bad input: each is one line on standard error that says what to do, and status 1.

GENERATE = ["generate", "-p", "a cigarette", "--steps", "1", "--out"]


def artifact(tmp_path: Path, tiny: Any) -> tuple[dict[str, Any], Path]:
    """A guard, and the weight file of its artifact."""
    guard = membrane(tmp_path / "artifacts", tiny)
    return guard, next(Path(guard["artifact"]).glob("*.safetensors"))


def unknown_method(tmp_path: Path, tiny: Any) -> dict[str, Any]:
    return {**artifact(tmp_path, tiny)[0], "method": "smp"}


def unknown_artifact(tmp_path: Path, tiny: Any) -> dict[str, Any]:
    return {"method": "spm", "artifact": "emoji-sd/spm/cigaret"}


def another_base(tmp_path: Path, tiny: Any) -> dict[str, Any]:
    guard, _ = artifact(tmp_path, tiny)
    path = Path(guard["artifact"]) / "artifact.yaml"
    fields = yaml.safe_load(path.read_text())
    fields["base"]["fingerprint"] = "arch:" + 16 * "0"
    path.write_text(yaml.safe_dump(fields))
    return guard


def truncated(tmp_path: Path, tiny: Any) -> dict[str, Any]:
    guard, weights = artifact(tmp_path, tiny)
    weights.write_bytes(weights.read_bytes()[:-9])
    return guard


def altered(tmp_path: Path, tiny: Any) -> dict[str, Any]:
    guard, weights = artifact(tmp_path, tiny)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    return guard


def pickle(tmp_path: Path, tiny: Any) -> dict[str, Any]:
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pt")
    return {"method": "spm", "artifact": str(tmp_path / "weights.pt")}


def not_numbers(tmp_path: Path, tiny: Any) -> dict[str, Any]:
    _, weights = artifact(tmp_path, tiny)
    from safetensors.torch import load_file

    tensors = {name: torch.full_like(tensor, float("nan")) for name, tensor in load_file(weights).items()}
    save_file(tensors, tmp_path / "nan_last.safetensors", metadata={"prompts": "cigarette", "rank": "1", "alpha": "1"})
    return {"method": "spm", "artifact": str(tmp_path / "nan_last.safetensors")}


def unknown_key(tmp_path: Path, tiny: Any) -> dict[str, Any]:
    return {**artifact(tmp_path, tiny)[0], "strenght": 1}


def no_prompts(tmp_path: Path, tiny: Any) -> dict[str, Any]:
    return {"method": "spm", "concept": {"name": "cigarette", "prompts": []}}


BAD: dict[Callable[..., dict[str, Any]], str] = {
    unknown_method: "did you mean 'spm'?",
    unknown_artifact: "no artifact",
    another_base: "was made for",
    truncated: "truncated",
    altered: "altered",
    pickle: "pickle",
    not_numbers: "NaN",
    unknown_key: "did you mean 'strength'?",
    no_prompts: "needs prompts",
}


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_bad_policy_is_one_line_and_no_picture(
    bad: Callable[..., dict[str, Any]], model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_policy(tmp_path, bad(tmp_path, model))
    out, err = said(capsys, *GENERATE, tmp_path / "out", "--policy", path, status=1)
    assert not out and len(err.splitlines()) == 1 and BAD[bad] in err, err
    assert not (tmp_path / "out").exists()


WRONG = {
    "generate -p x --policy nonesuch": "no policy file",
    "generate -p x --policy none --model nonesuch": "no embedded model",
    "generate -p x --policy none --model emoji-ds": "did you mean 'emoji-sd'?",
    "generate -p x --policy none --model ./my-sd": "no such file or folder",
    "generate -p x --policy none --variant fp16": "it has no variants",
    "generate -p x --policy none --model authors-lm": "conceptguard say --model authors-lm",
    "generate -p x --policy {guards:[{method:smp}]}": "the policy, line 1: not valid YAML",
    "generate -p x --guard smp:beer": "did you mean 'spm'?",
    "generate -p x --guard spm:bear": "did you mean emoji-sd/spm/beer",
    "say -p x --policy none --model emoji-sd": "conceptguard generate --model emoji-sd",
    "say -p x --policy school": "no guard of policy 'school' acts",
    "list --method smp": "did you mean 'spm'?",
    "list --base emojisd": "did you mean 'emoji-sd'?",
    "list --concept cigarete": "did you mean 'cigarette'?",
    "list --concept beer --base authors-lm": "no artifact has all of",
    "generate -p x --policy none --device cuda:99": "device",
    "make smp --concept x --out o": "did you mean 'spm'?",
    "make spm --concept x --out o --set rnak=2": "did you mean 'rank'?",
    "make spm --concept x --out o --preserve @nonesuch.txt": "cannot be read",
    "eval --concepts cigarete": "did you mean 'cigarette'?",
    "eval --method smp": "did you mean 'spm'?",
    "eval --model nonesuch": "no prompt suite",
    "eval --method spm --together 500": "asked for",
    "demo --policy nonesuch": "no policy file",
    "bench overhead --method spm --size sd15": "there is none for sd15",
    "bench overhead --method smp": "unknown method",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_words_are_one_line(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    out, err = said(capsys, *words.split(), status=1)
    assert not out and len(err.splitlines()) == 1 and WRONG[words] in err, err


NOT_UNDERSTOOD = {
    "lst": "did you mean 'list'?",
    "generate -p x": "--policy",
    "generate --policy none": "--prompt",
    "generate -p x --policy none --guard spm:beer": "leave one of them out",
    "generate -p x --policy none --compare": "--compare",
    "explain -p x --policy none": "nothing to explain",
    "generate -p x --guard spm": "write spm:ARTIFACT",
    "generate -p x --guard sld": "write sld:WORD,WORD",
    "generate -p x -p y --policy none --out one.png": "give a folder",
    "generate -p x --policy none --out one.jpg": ".png",
    "generate -p x --policy none --dtype fp8": "fp32, fp16, bf16",
    "generate --policy none --prompts prompts.xlsx": ".txt, .csv or .jsonl",
    "generate --policy none --prompts nonesuch.txt": "cannot be read",
    "make spm --concept x --out o --set rank": "KEY=VALUE",
    "eval --gate never": "prompt or always",
    "eval --suite language --wordings all": "judge or tune",
    "bench overhead --size sd3": "emoji-sd or sd15",
    "bench overhead --clock sun": "wall or cpu",
    "bench overhead --n many": "whole numbers",
    "export emoji-sd/spm/beer --format gguf --out o": "kohya, diffusers, uce, text_encoder or delta",
    "import x.safetensors --as folder": "spm, lora, uce or text_encoder",
}


@pytest.mark.parametrize("words", NOT_UNDERSTOOD)
def test_what_is_not_understood_is_one_line_and_status_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(capsys, *words.split(), status=2)
    assert not out and len(err.splitlines()) == 1 and NOT_UNDERSTOOD[words] in err, err


def test_wrong_usage_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["make", "spm"], ["generate", "--promt", "x"], ["make"], ["eval", "--n", "none"]):
        _, err = said(capsys, *words, status=2)
        assert len(err.splitlines()) == 1 and "--help" in err


def test_a_plugin_that_raises_leaves_no_picture(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Any, **anything: Any) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(
        "conceptguard_plugins.diffusion.spm.method.SPM.cross_attention", hookimpl(lambda self, layers: broken(self))
    )
    path = write_policy(tmp_path, membrane(tmp_path / "artifacts", model))
    out, err = said(capsys, *GENERATE, tmp_path / "out", "--policy", path, status=1)
    assert not out and len(err.splitlines()) == 1 and "guard 'spm" in err and "out of order" in err
    assert not (tmp_path / "out").exists()


def test_a_message_of_many_lines_stays_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from conceptguard.errors import ConceptGuardError

    def explain() -> None:
        raise ConceptGuardError("two\nlines")

    monkeypatch.setattr("conceptguard.plugins.methods", explain)
    assert said(capsys, "plugins", status=1)[1] == "conceptguard: two lines\n"


def test_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    from conceptguard.cli.devices import pick_device

    assert pick_device("cpu") == "cpu" and pick_device() in ("cpu", "cuda", "mps")
