"""Figures: numbers in README and docs, written by the command that stands beside them.

A figure is a block of Markdown between ``<!-- figure: NAME -->`` and ``<!-- /figure -->``. What stands inside is
rendered from docs/figures/NAME.json: what its commands reported with ``--json``, and the commands themselves, so that
a page cannot show another command than the one that ran. Without that file a block says which command to run.

    python -m tools.figures render          # the blocks of README.md and docs/, from the files
    python -m tools.figures check           # the same, changing nothing: exit status 1 where a block is another
    python -m tools.figures run [NAME ...]  # the commands anew: those that have no file yet, or the named ones
    python -m tools.figures list            # which there are, and which have no file yet
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.figure_list import FIGURES, Result

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "figures"
_BLOCK = re.compile(r"(<!-- figure: ([\w-]+) -->\n).*?(<!-- /figure -->)", re.DOTALL)


def pages() -> list[Path]:
    """README and every page of docs/ and registry/ that can hold a figure."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def load(name: str) -> list[dict[str, Any]] | None:
    """What the commands of a figure reported, each as ``{"command": …, "result": …}``; None where nobody ran them."""
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["ran"] if path.is_file() else None


def block(name: str) -> str:
    """What stands inside a figure's block. Raises KeyError for a figure that nobody knows."""
    figure = FIGURES[name]
    ran = load(name)
    if ran is None:
        return f"_Not measured for this version yet:_\n\n{_commands(figure.commands)}\n"
    commands = [one["command"] for one in ran]
    results = [one["result"] for one in ran]
    return f"{_commands(commands)}\n\n{_made(results)}\n\n{figure.render(results)}\n"


def _commands(commands: list[str] | tuple[str, ...]) -> str:
    lines = [line for command in commands for line in _folded(command)]
    block = "\n".join(["```bash", *lines, "```"])
    if len(commands) <= 3:
        return block
    return f'<details markdown="1"><summary>{len(commands)} commands</summary>\n\n{block}\n\n</details>'


def _folded(command: str, width: int = 100) -> list[str]:
    """A command in lines that fit the page."""
    lines, line = [], ""
    for word in command.split(" "):
        if line and len(line) + len(word) > width:
            lines.append(f"{line} \\")
            line = "   "
        line = f"{line} {word}" if line else word
    return [*lines, line]


def _made(results: list[Result]) -> str:
    """Version, device, and how long it took, where it was not taken up from an earlier run."""
    versions = sorted({str(result.get("version", "")) for result in results} - {""})
    devices = sorted({str(result.get("device", "cpu")) for result in results})
    told = f"conceptguard {', '.join(versions)}, {', '.join(devices)}"
    if any(result["command"] == "promises" for result in results):
        return f"{told}:"
    return f"{told}, {sum(map(_seconds, results)):,.0f} s in all:"


def _seconds(result: Result) -> float:
    """How long it took. Rows of redteam are kept, and say for themselves how long they took when they were measured."""
    rows = [row["seconds"] for row in result["rows"] if "seconds" in row] if result["command"] == "redteam" else []
    return max(float(result["seconds"]), float(sum(rows)))


def render(text: str) -> str:
    """Markdown with its figures as their files say. Raises KeyError for a figure that nobody knows."""
    return _BLOCK.sub(lambda found: found[1] + block(found[2]) + found[3], text)


def outdated() -> list[Path]:
    """The pages with a block that differs from what its file renders to."""
    return [page for page in pages() if render(text := page.read_text(encoding="utf-8")) != text]


def stale() -> list[str]:
    """Figures whose file was made by other commands than the ones that stand here now."""
    return [n for n, f in FIGURES.items() if (ran := load(n)) and [one["command"] for one in ran] != list(f.commands)]


def run(name: str) -> None:
    """Run the commands of a figure and write its file. Raises SystemExit where one of them fails."""
    import os

    figure = FIGURES[name]
    if figure.needs and not os.environ.get(figure.needs):
        print(f"{name}: left out, {figure.needs} is not set", file=sys.stderr)
        return
    ran = []
    for command in figure.commands:
        print(f"{name} (about {figure.takes}): {command}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "result.json"
            words = [os.path.expandvars(word) for word in shlex.split(command)]
            program = [sys.executable, *words[1:]] if words[0] == "python" else [
                sys.executable, "-c", "from conceptguard.cli import main; main()", *words[1:]
            ]  # fmt: skip
            done = subprocess.run([*program, "--json", str(target)], cwd=ROOT, stdout=subprocess.DEVNULL)
            if done.returncode:
                raise SystemExit(f"{name}: {command} failed with {done.returncode}")
            ran.append({"command": command, "result": json.loads(target.read_text(encoding="utf-8"))})
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(dumped(ran), "utf-8")


def dumped(ran: list[dict[str, Any]]) -> str:
    """A figure's file: a row a line, so that what changed can be seen."""
    parts = []
    for one in ran:
        empty = json.dumps({**one, "result": {**one["result"], "rows": []}}, indent=1, ensure_ascii=False)
        rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in one["result"]["rows"])
        parts.append(empty.replace('"rows": []', f'"rows": [\n{rows}\n ]'))
    return '{"ran": [' + ",\n".join(parts) + "]}\n"


# What looks measured. A figure that a command did not write is a defect, see tests/test_docs.py.
_MEASURED = [
    re.compile(r"(?<![\w.])\d+\.\d+(?![\w.])"),  # 0.95
    re.compile(r"\d\s?(?:%|per cent|percent)"),  # 97 %
    re.compile(r"\d\s?(?:→|->)\s?\d"),  # 0.95 → 0.01
    re.compile(r"\b(?:\d[\d,.]*|two|three|five|ten|twenty|a hundred) times (?:less|more|faster|slower|as)\b"),
    re.compile(r"\b\d[\d,.]*\s?(?:ms|µs|s|seconds|minutes|hours|KiB|MiB|GiB|MB|GB)\b"),  # 2.5 ms
    re.compile(r"\b\d+(?:\.\d+)?e-\d+\b"),  # 1e-4
]
# Numbers that are names: of programs and models with their versions.
_NAMES = re.compile(
    r"\b(?:Stable Diffusion|ComfyUI|FLUX\.?|Python|torch|transformers|diffusers|frontends?|conceptguard|SD|Llama|CLIP|"
    r"version|Wan) v?\d+(?:\.[\dx]+)*(?:(?:, | and | or | to )v?\d+(?:\.[\dx]+)+)*"
)


def typed_by_hand(text: str) -> Iterator[str]:
    """What looks measured in Markdown and stands in no figure, code or comment."""
    text = _BLOCK.sub("", text)
    text = re.sub(r"^( *)(```+|~~~+).*?^\1\2 *$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`\n]+(?:\n[^`\n]+)?`", "", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    text = _NAMES.sub("", text)
    for line in text.splitlines():
        for pattern in _MEASURED:
            for found in pattern.finditer(line):
                yield f"{found[0]!r} in {line.strip()!r}"


def main() -> None:
    """The commands of the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["render", "check", "run", "list"])
    parser.add_argument("names", nargs="*", metavar="NAME")
    given = parser.parse_args()
    unknown = set(given.names) - set(FIGURES)
    if unknown:
        parser.error(f"no figure {', '.join(sorted(unknown))}: there are {', '.join(FIGURES)}")
    if given.what == "list":
        for name, figure in FIGURES.items():
            state = "measured" if load(name) is not None else "not measured yet"
            print(f"{name:16} {state:17} {figure.takes}{f', needs {figure.needs}' if figure.needs else ''}")
    elif given.what == "run":
        for name in given.names or [name for name in FIGURES if load(name) is None]:
            run(name)
    elif given.what == "render":
        for page in pages():
            text = page.read_text(encoding="utf-8")
            page.write_text(render(text), encoding="utf-8")
    elif found := outdated():
        sys.exit(f"figures are not what their files say: {', '.join(str(p.relative_to(ROOT)) for p in found)}")


if __name__ == "__main__":
    main()
