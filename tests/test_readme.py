"""The README's examples, run as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

from conceptguard import plugins
from conceptguard.cli import build
from conceptguard.policy_file import load_policy

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_python(capsys: pytest.CaptureFixture[str]) -> None:
    """With a breakpoint nowhere: fifty steps of the embedded model, guarded, and a receipt that was open."""
    exec(compile(blocks("python")[0], "README.md", "exec"), space := {})  # type: ignore[var-annotated]
    assert space["image"].size == (128, 128)
    assert "cigarette" in capsys.readouterr().out
    assert any(act.steps for act in space["guard"].receipt.acts)


def test_the_method_is_the_example_that_the_kit_tests() -> None:
    """tests/test_example.py holds that file to the contract, as a stranger would."""
    assert blocks("python")[1] == (ROOT / "examples/wordlist/conceptguard_wordlist.py").read_text(encoding="utf-8")


def test_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(blocks("yaml")[0])
    assert [guard.method for guard in load_policy(path).guards] == ["spm", "uce", "sld"]


def test_commands_and_their_options_exist() -> None:
    import typer

    group: Any = typer.main.get_command(build())
    for line in "".join(blocks("bash")).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] != "conceptguard":
            continue
        command: Any = group
        while words[1:] and words[1] in getattr(command, "commands", {}):
            command = command.commands[words.pop(1)]
        assert command is not group, line
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_make_targets_exist() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {words.split()[1] for words in README.splitlines() if words.startswith("make ")} <= set(targets)


def test_links_lead_somewhere() -> None:
    """To files of this repository; what stands at other addresses is theirs."""
    links = re.findall(r"\]\(([^)#]+)\)", README)
    meant = {"CONTRIBUTING.md", "SECURITY.md"}  # of the repository's own page
    assert not [link for link in links if "://" not in link and link not in meant and not (ROOT / link).exists()]


def test_every_shipped_method_is_in_the_table() -> None:
    table = set(re.findall(r"^\| \[`(\w+)`\]\(docs/methods/\1\.md\) \| ", README, re.MULTILINE))
    assert table == set(plugins.methods())
