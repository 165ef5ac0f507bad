"""The README's examples, run as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from paths import ROOT

import conceptguard
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


def test_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(blocks("yaml")[0])
    assert [guard.method for guard in load_policy(path).guards] == ["spm", "uce", "sld"]


def test_the_method_on_the_page_is_one(tiny: Any) -> None:
    """It rewrites what names the concept, and leaves everything else bit-identical."""
    source = next(block for block in blocks("python") if "class Replace" in block)
    exec(compile(source, "README.md", "exec"), space := {})  # type: ignore[var-annotated]
    line = next(line for line in README.splitlines() if "method: replace" in line)
    guard = yaml.safe_load(re.findall(r"`(\{method: replace.*?\}\})`", line)[0])

    def draw(prompt: str) -> torch.Tensor:
        seed = torch.Generator().manual_seed(0)
        return tiny(prompt, num_inference_steps=2, generator=seed, output_type="latent").images

    plain, flower = draw("a red apple"), draw("a flower on a table")
    manager = plugins.plugin_manager()
    manager.register(space["Replace"], name="replace")
    try:
        with conceptguard.attach(tiny, {"name": "weapons", "guards": [guard]}):
            assert torch.equal(draw("a red apple"), plain)
            assert torch.equal(draw("a pistol on a table"), flower)
    finally:
        manager.unregister(name="replace")


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


def test_every_shipped_method_is_in_the_table() -> None:
    table = set(re.findall(r"^\| `(\w+)` \| (?!\d)", README, re.MULTILINE))
    assert table == set(plugins.methods())
