"""The documentation builds strictly, without a network, and shows no figure that a command did not write."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import conceptguard
from conceptguard import plugins
from conceptguard.measuring.protocols import load_protocol
from conceptguard.measuring.suite import erased, load_suite
from conceptguard.registry import default_registry
from conceptguard.testing.kit_guards import offered

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # tools/ is no package of anybody's environment

from tools import built, figures, house, methods  # noqa: E402

PAGES = [page for page in figures.pages() if page.is_relative_to(ROOT / "docs")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages. Addresses of proxies that nobody serves stand for: no network."""
    folder = tmp_path_factory.mktemp("site")
    nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def read(site: Path, page: str) -> str:
    """The text of a page, without its markup."""
    text = (site / page / "index.html").read_text(encoding="utf-8")
    article = text[text.index("<article") : text.index("</article>")]
    return html.unescape(re.sub(r"<[^>]+>", "", article))


def test_every_method_has_a_page_with_its_settings(site: Path) -> None:
    for name in methods.names():
        text = read(site, f"methods/{name}")
        assert (ROOT / "docs" / "methods" / f"{name}.md").is_file(), f"{name} has no prose"
        for part in ("The idea.", "When to pick it.", "What it does not do."):
            assert part in text, f"{name}: {part}"
        for setting in plugins.method(name).Settings.model_fields:
            assert setting in text, f"{name}: {setting}"
        assert re.search(rf"\b{name}\b", read(site, "methods")), f"{name} is not in the table"


def test_every_setting_says_what_it_means() -> None:
    for name in methods.names():
        method = plugins.method(name)
        for model in (method.Settings, method.MakeSettings):
            meanings, _ = methods.meanings_of(model)
            assert set(meanings) == set(model.model_fields), f"{name}: {model.__name__}"


def test_figures_of_cards_stand_on_the_page(site: Path) -> None:
    text = read(site, "methods/spm")
    manifest = next(m for m in methods.manifests()["spm"] if m.card)
    assert manifest.ref in text and manifest.card["command"].split(" --concepts")[0] in text


def test_pages_made_of_the_code(site: Path) -> None:
    assert all(f"{name}(" in read(site, "reference/python") for name in ("attach", "load_policy", "contract_tests"))
    commands = read(site, "reference/commands")
    assert all(word in commands for word in ("bench overhead", "magicmix", "--together", "conceptguard eval --policy"))
    assert "on_violation" in read(site, "guides/policy") and "sha256" in read(site, "guides/registry")
    assert "judge_templates" in read(site, "guides/evaluate") and "not understood" in commands
    assert "rows_are_separate" in read(site, "promises")
    numbered = re.search(r"<ol>(.*?)</ol>", (site / "promises/index.html").read_text("utf-8"), re.DOTALL)
    listed = re.findall(r"<strong>(.*?)</strong>", numbered[1]) if numbered else []
    assert len(listed) == 9 and listed[3] == "Rows are separate.", "numbers of promises are those of the design"
    assert "class WordList(Method)" in read(site, "guides/write-a-method")
    assert "sessions" in read(site, "architecture") and "<svg" in (site / "architecture/index.html").read_text("utf-8")


def test_examples_are_shown_from_their_own_files(site: Path) -> None:
    """In blocks of three lines: ruff formats Markdown too, and takes ``--8<-- "file"`` for an expression of Python."""
    for page in PAGES:
        assert not re.search(r"8 ?< ?-- ?\"", page.read_text(encoding="utf-8")), f"{page}: write --8<-- on its own line"
    for built_page in site.rglob("*.html"):
        assert "8&lt;" not in re.sub(r"<[^>]+>", "", built_page.read_text(encoding="utf-8")), built_page


def test_variables_of_the_environment_are_those_that_the_code_reads() -> None:
    listed = re.findall(r"^\| `(CONCEPTGUARD_\w+)` \| (.+) \|$", built.variables(), re.MULTILINE)
    assert {name for name, _ in listed} == set(built.MEANINGS) and all(told.strip() for _, told in listed)


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """Links may lead anywhere; what a browser loads by itself is here."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)\b[^>]*\bsrc=[\"']?([^\"' >]+)", text)
        loaded += re.findall(r"<link\b[^>]*rel=[\"']?(?:stylesheet|preconnect|icon)[^>]*href=[\"']?([^\"' >]+)", text)
        assert not [address for address in loaded if "//" in address], page


def test_figures_are_what_their_files_say() -> None:
    assert not figures.outdated(), "run `make docs`"
    assert not figures.stale(), "their commands have changed: run `make figures FIGURES=...`"


@pytest.mark.parametrize("page", figures.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_no_figure_without_its_command(page: Path) -> None:
    assert not list(figures.typed_by_hand(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "line", ["it erases 97 % of them", "a step takes 1.09 of the time", "10 times less", "0.95 → 0.01", "takes 2.5 ms"]
)
def test_a_typed_figure_is_found(line: str) -> None:
    assert list(figures.typed_by_hand(f"A page.\n\n{line}\n"))
    assert not list(figures.typed_by_hand(f"```text\n{line}\n```\n"))
    assert not list(figures.typed_by_hand(f"<!-- figure: eval -->\n{line}\n<!-- /figure -->\n"))
    assert not list(figures.typed_by_hand("ComfyUI 0.3.75, 0.8.0 and Stable Diffusion 1.5, with `scale=1.5`"))


def test_figures_in_pages_are_known_and_used() -> None:
    used = {
        name for page in figures.pages() for name in re.findall(r"<!-- figure: ([\w-]+) -->", page.read_text("utf-8"))
    }
    assert used == set(figures.FIGURES)


@pytest.mark.parametrize("page", ["start/diffusers.md", "start/transformers.md"])
def test_first_steps_run_as_they_stand(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    space: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if "--8<--" not in block:
            exec(compile(block, page, "exec"), space)
    assert "policy" in capsys.readouterr().out


def test_policies_and_suites_in_pages_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suites = 0
    for page in PAGES:
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            if "judge_templates" in block:
                (tmp_path / "suite.yaml").write_text(block)
                suite = load_suite(tmp_path / "suite.yaml")
                suites += len(erased(suite, suite.concepts[0], 8)) == 8
            elif "# settings.yaml" in block:
                (tmp_path / "settings.yaml").write_text(block)
                monkeypatch.setenv("CONCEPTGUARD_SETTINGS", str(tmp_path / "settings.yaml"))
                assert len(default_registry().sources) > 2
            elif "detector:" in block:
                (tmp_path / "protocol.yaml").write_text(block)
                assert not load_protocol(tmp_path / "protocol.yaml").unknown
            elif "wordlist" not in block:
                (tmp_path / "policy.yaml").write_text(block)
                assert conceptguard.load_policy(tmp_path / "policy.yaml").guards
    assert suites == 1


def test_the_house_is_drawn_from_the_imports(tmp_path: Path) -> None:
    rooms = house.rooms()
    assert {"conceptguard.registry", "conceptguard.testing", "conceptguard_nodes"} <= set(rooms)
    for room in rooms.values():
        assert room.about, f"{room.name} does not say what it is for"
        below = [other for other in room.uses if other not in room.tangled]
        assert all(rooms[other].floor < room.floor for other in below), room.name
    assert "errors" not in {house.short(name) for name in rooms if rooms[name].uses}


def test_relative_imports_are_resolved(tmp_path: Path) -> None:
    path = tmp_path / "b.py"
    path.write_text("from __future__ import annotations\nfrom . import c\nfrom ..d import e\nimport torch.nn\n")
    assert set(house.imports("a.x.b", path)) == {"__future__.annotations", "a.x.c", "a.d.e", "torch.nn"}


def test_the_method_on_the_page_is_one(tiny: Any) -> None:
    """It rewrites what is on its list, and leaves everything else bit-identical."""
    page = (ROOT / "docs" / "guides" / "write-a-method.md").read_text("utf-8")
    file = next(line for line in page.splitlines() if re.fullmatch(r"examples/.+\.py", line))
    exec(compile((ROOT / file).read_text("utf-8"), file, "exec"), space := {})  # type: ignore[var-annotated]
    policy = yaml.safe_load(re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[0])

    def draw(prompt: str) -> torch.Tensor:
        seed = torch.Generator().manual_seed(0)
        return torch.as_tensor(tiny(prompt, num_inference_steps=2, generator=seed, output_type="pt").images)

    plain, flower, two = draw("a red apple"), draw("a flower on a table"), draw("a flower and a flower")
    with offered(space["WordList"]), conceptguard.attach(tiny, policy) as guard:
        assert torch.equal(draw("a red apple"), plain) and not guard.receipt.verdicts
        assert torch.equal(draw("a pistol on a table"), flower) and guard.receipt.verdicts[0].label == "pistol"
        assert torch.equal(draw("a pistol and a bomb"), two), "the second word must not bring the first one back"
