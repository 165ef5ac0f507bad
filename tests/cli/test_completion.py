"""What a shell is told at a press of the tab key, asked as shells ask: by the environment of a new process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from paths import ROOT

from conceptguard import plugins
from conceptguard.cli import complete

PROGRAM = "import atexit, sys; atexit.register(lambda: print({heavy} & {{*sys.modules}}, file=sys.stderr)); {main}"
HEAVY = {"torch", "diffusers", "transformers", "pluggy", "PIL", "numpy"}
MAIN = "from conceptguard.cli import main; main([])"
SCRIPT = Path(sys.executable).with_name("conceptguard")
CIGARETTE = "emoji-sd/spm/cigarette"


# Begun once, and asked something for the imports; every question is put to a copy of it, which ends with the answer.
BEGUN = """
import contextlib, gc, io, json, os, sys
from conceptguard.cli import main
os.environ.update(_CONCEPTGUARD_COMPLETE="complete_bash", COMP_WORDS="conceptguard\\nma", COMP_CWORD="1")
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    main([])
gc.freeze()
for line in sys.stdin:
    variables, *streams = json.loads(line)
    if not (copy := os.fork()):
        for stream, path in zip((1, 2), streams):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
        os.environ.update(variables)
        try:
            main([])
        except SystemExit as left:
            print({heavy} & {{*sys.modules}}, file=sys.stderr)
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(left.code or 0)  # nothing is tidied up in a copy
        os._exit(-1)
    print(os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]), flush=True)
"""


def told(**variables: str) -> str:
    """What the program answers; nothing heavy is imported for it, and nothing else is said."""
    code = PROGRAM.format(heavy=HEAVY, main=MAIN)
    environment = {**os.environ, **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "set()\n"), done.stdout
    return done.stdout


Ask = Callable[..., str]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """``told`` of a program that has begun already: most of a key press is the start of Python."""
    code = BEGUN.format(heavy=HEAVY)
    folder = tmp_path_factory.mktemp("asked")
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as begun:
        assert begun.stdin is not None and begun.stdout is not None
        questions, answers = begun.stdin, begun.stdout

        def asked(**variables: str) -> str:
            out, err = (folder / f"{len(list(folder.iterdir()))}.{name}" for name in ("out", "err"))
            questions.write(json.dumps([variables, str(out), str(err)]) + "\n")
            questions.flush()
            status = int(answers.readline())
            assert (status, err.read_text()) == (0, "set()\n"), out.read_text()
            return out.read_text()

        yield asked


def bash(ask: Ask, line: str, **variables: str) -> list[str]:
    """What is offered for the last word of a line."""
    words = line.split(" ")
    asked = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    return ask(_CONCEPTGUARD_COMPLETE="complete_bash", **asked, **variables).split()


BENCHES = ["overhead", "check", "gates", "logits", "speech", "make", "train", "forget", "attach", "comfyui", "many"]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("conceptguard ma", ["make", "magicmix"]),
        ("conceptguard generate --guard spm:emoji-sd/spm/ciga", ["spm:emoji-sd/spm/cigarette"]),
        ("conceptguard policy check scho", ["school", "school-uce"]),
        ("conceptguard bench ", BENCHES),
        ("conceptguard generate --imag", ["--images-per-prompt"]),
        ("conceptguard make ua", []),
        ("conceptguard make uc", ["uce"]),
        ("conceptguard eval --method sp", ["sparse_unlearning", "spm"]),
        ("conceptguard show emoji-sd/spm/ciga", [CIGARETTE]),
        ("conceptguard list --base au", ["authors-lm"]),
        ("conceptguard eval --concepts pistol,bom", ["pistol,bomb"]),
        ("conceptguard generate --policy scho", ["school", "school-uce"]),
        ("conceptguard generate --policy no", ["no-alcohol", "no-mono", "none"]),
        ("conceptguard generate --model emoji-sd-", ["emoji-sd-marked", "emoji-sd-one-step", "emoji-sd-pairs"]),
        ("conceptguard bench overhead --clock ", ["wall", "cpu"]),
        ("conceptguard export x --format ", ["kohya", "diffusers", "uce", "text_encoder", "delta"]),
        ("conceptguard generate --policy ./", []),  # the shell goes on to files
    ],
)
def test_bash(line: str, offered: list[str], ask: Ask) -> None:
    assert sorted(bash(ask, line)) == sorted(offered)


def test_zsh_and_fish(ask: Ask) -> None:
    asked = {"_TYPER_COMPLETE_ARGS": "conceptguard show emoji-sd/spm/ciga"}
    assert f'"{CIGARETTE}"' in told(_CONCEPTGUARD_COMPLETE="complete_zsh", **asked)
    fish = {**asked, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    assert told(_CONCEPTGUARD_COMPLETE="complete_fish", **fish).split() == [CIGARETTE]
    nothing = {"_TYPER_COMPLETE_ARGS": "conceptguard generate --policy ./"}
    assert ask(_CONCEPTGUARD_COMPLETE="complete_zsh", **nothing).strip() == "_files"


def test_names_are_those_there_are() -> None:
    """Entry points are asked, not methods: they must say the same."""
    assert set(complete.methods()) == set(plugins.methods())
    assert set(complete.policies()) == {path.stem for path in (ROOT / "registry" / "policies").iterdir()}


def test_registries_of_others(ask: Ask, tmp_path: Path) -> None:
    """One's own artifacts are offered, a broken registry and one in a network are not asked, no name is code."""
    entry = {"name": "kite", "method": "spm", "base": "mine", "version": "1", "size": 1, "sha256": "0" * 64,
             "ref": "mine/spm/kite", "concept": "kite$(touch boo)", "bytes_manifest": 1}  # fmt: skip
    for name, text in (("broken", "{"), ("home", json.dumps({"schema": 1, "entries": [entry]}))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.json").write_text(text)
    others = {
        "CONCEPTGUARD_HOME": str(tmp_path / "home"),
        "CONCEPTGUARD_REGISTRIES": os.pathsep.join([str(tmp_path / "broken"), "https://registry.invalid/x"]),
    }
    assert bash(told, "conceptguard show mine", **others) == ["mine/spm/kite"]
    assert bash(ask, "conceptguard list --concept kite", **others) == []


def shell(name: str, code: str, home: Path) -> str:
    """The output of a shell that starts with nothing of the user's, and has the program."""
    if not shutil.which(name) or not SCRIPT.exists():
        pytest.skip(f"no {name} here, or no conceptguard beside Python")
    plain = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[name]
    kept = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "XDG_DATA_HOME": str(home / ".local")}
    path = f"{SCRIPT.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [name, *plain, "-c", code], env={**os.environ, **kept, "PATH": path}, text=True, capture_output=True, cwd=home
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_installed_into_bash(tmp_path: Path) -> None:
    code = f"""
        conceptguard --install-completion; source ~/.bashrc; complete -p conceptguard
        COMP_WORDS=(conceptguard show emoji-sd/spm/ciga); COMP_CWORD=2; _conceptguard_completion conceptguard
        [ "${{COMPREPLY[*]}}" = {CIGARETTE} ] && echo completed
    """
    said = shell("bash", code, tmp_path)
    assert "bash completion installed" in said and "-F _conceptguard_completion conceptguard" in said
    assert said.endswith("completed\n")


def test_installed_into_fish(tmp_path: Path) -> None:
    code = "conceptguard --install-completion; source ~/.config/fish/completions/conceptguard.fish;"
    said = shell("fish", f"{code} complete -C 'conceptguard show emoji-sd/spm/ciga'", tmp_path)
    assert said.splitlines()[-1] == CIGARETTE


def test_installed_into_zsh(tmp_path: Path) -> None:
    """What the function hands to zsh's own completion, which needs a terminal."""
    code = """
        conceptguard --install-completion; compdef() { }; _arguments() { print -r -- "$@" }
        source ~/.zfunc/_conceptguard; words=(conceptguard show emoji-sd/spm/ciga); CURRENT=3; _conceptguard_completion
    """
    assert CIGARETTE in shell("zsh", code, tmp_path).splitlines()[-1]
