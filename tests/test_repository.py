"""What stands beside the code agrees with it: versions, addresses, the walk through a method, the changelog."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml
from paths import ROOT

import conceptguard

ADDRESS = "https://github.com/conceptguard/conceptguard"
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "changes/README.md")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def toml(name: str) -> dict[str, Any]:
    return dict(pytest.importorskip("tomllib").loads(text(name)))  # Python 3.11


def test_one_version_everywhere() -> None:
    cited = yaml.safe_load(text("CITATION.cff"))
    said = [
        toml(name)["project"]["version"]
        for name in ("pyproject.toml", "nodes/pyproject.toml", "conceptguard-models/pyproject.toml")
    ]
    assert {*said, str(cited["version"])} == {conceptguard.__version__}
    models = toml("pyproject.toml")["project"]["optional-dependencies"]["models"]
    assert models == [f"conceptguard-models=={conceptguard.__version__}"]
    assert text("nodes/requirements.txt").strip() == f"conceptguard>={conceptguard.__version__}"
    assert f"\n## {conceptguard.__version__} ({cited['date-released']})\n" in text("CHANGELOG.md")


def test_the_citation_is_a_citation() -> None:
    """What version 1.2.0 of the format asks for; `cffconvert --validate` checks the whole schema."""
    cited = yaml.safe_load(text("CITATION.cff"))
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software" and cited["message"] and cited["title"]
    assert all(author.get("name") or author.get("family-names") for author in cited["authors"])
    assert cited["license"] == toml("pyproject.toml")["project"]["license"] == "Apache-2.0"


def test_one_address_everywhere() -> None:
    found = [toml(name)["project"]["urls"]["Repository"] for name in ("pyproject.toml", "nodes/pyproject.toml")]
    assert {*found, yaml.safe_load(text("CITATION.cff"))["repository-code"]} == {ADDRESS}
    for name in (*PAGES, "pyproject.toml", "nodes/pyproject.toml", "CITATION.cff"):
        for found_there in re.findall(r"https://(?:github|raw\.githubusercontent)\.com/[\w.-]+/[\w.-]+", text(name)):
            assert found_there.removesuffix(".git").endswith(".com/conceptguard/conceptguard"), name


def test_links_lead_somewhere() -> None:
    for name in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text(name)):
            assert (ROOT / name).parent.joinpath(target).exists(), f"{name}: {target}"


def test_the_walk_is_the_example() -> None:
    """Every piece of code that CONTRIBUTING shows stands in examples/wordlist, word for word."""
    files = ("README.md", "conceptguard_wordlist.py", "pyproject.toml", "test_wordlist.py")
    example = "\n".join(text(f"examples/wordlist/{name}") for name in files)
    pieces = re.findall(r"^```(?:python|toml|yaml)\n(.*?)^```", text("CONTRIBUTING.md"), re.DOTALL | re.MULTILINE)
    assert len(pieces) >= 6
    for piece in pieces:
        assert piece in example, piece


def test_the_walk_knows_all_hooks() -> None:
    from conceptguard.hookspecs import GENERATION

    table = text("CONTRIBUTING.md").split("### 3.")[1].split("### 4.")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= GENERATION


def test_the_next_changes_can_be_read() -> None:
    """Every fragment is of a known type, and towncrier shows it."""
    pending = [path for path in (ROOT / "changes").iterdir() if path.name != "README.md"]
    draft = subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft"], cwd=ROOT, text=True, capture_output=True
    )
    assert draft.returncode == 0, draft.stderr
    for path in pending:
        assert path.read_text(encoding="utf-8").splitlines()[0] in draft.stdout, f"changes/{path.name}: not shown"


def test_no_model_says_where_it_was_made() -> None:
    """transformers writes the folders that parts were read from, also into configurations inside of others."""
    files = sorted((ROOT / "registry" / "models").rglob("*.json"))
    assert len(files) > 20
    assert not [file.name for file in files if re.search(r'"_name_or_path": "[^"]*/', file.read_text(encoding="utf-8"))]
