"""Where registries are and where fetched files go: variables of the environment, a settings file, addresses."""

from __future__ import annotations

from pathlib import Path

import pytest
from registry_tools import make, served

from conceptguard.cli import run
from conceptguard.errors import RegistryError
from conceptguard.registry import Registry, default_registry
from conceptguard.registry.cache import cache_folder
from conceptguard.registry.local import LocalSource
from conceptguard.registry.places import user_folder
from conceptguard.registry.settings import MEANINGS, offline


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings file, and no variable set."""
    for variable, _ in MEANINGS.values():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CONCEPTGUARD_SETTINGS", str(tmp_path / "s" / "settings.yaml"))
    (tmp_path / "s").mkdir()
    return tmp_path / "s" / "settings.yaml"


def test_the_file_says_it_for_all_sessions(settings: Path, tmp_path: Path) -> None:
    LocalSource(tmp_path / "shared").add(make(tmp_path / "a"))
    settings.write_text("registries: [../shared, https://example.org/r]\nhome: own\ncache: /elsewhere\noffline: true\n")
    assert [source.name for source in default_registry().sources][1:] == [
        "user", str(settings.parent / "../shared"), "https://example.org/r",
    ]  # fmt: skip
    assert (user_folder(), cache_folder()) == (settings.parent / "own", Path("/elsewhere"))
    assert offline() == f"`offline` in {settings}"
    assert default_registry().sources[2].find("tiny/spm/cigarette") is not None


def test_a_variable_counts_before_the_file(settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.write_text("registries: [https://example.org/r]\nhome: own\noffline: true\n")
    for variable, value in (("HOME", "/mine"), ("CACHE", "~/c"), ("REGISTRIES", ""), ("OFFLINE", "")):
        monkeypatch.setenv(f"CONCEPTGUARD_{variable}", value)
    assert len(default_registry().sources) == 2 and not offline()
    assert (user_folder(), cache_folder()) == (Path("/mine"), Path.home() / "c")


def test_a_change_is_seen(settings: Path) -> None:
    settings.write_text("registries: [a]")
    assert len(default_registry().sources) == 3
    settings.write_text("registries: [a, b]\n")
    assert len(default_registry().sources) == 4
    settings.write_text("")
    assert len(default_registry().sources) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("regsitries: [a]", r"line 1: unknown key 'regsitries': did you mean 'registries'"),
        ("\nregistries: a", r"line 2: registries is a list of folders and addresses"),
        ("registries: [1]", r"registries is a list"),
        ("offline: 1", r"offline is true or false"),
        ("home: [x]", r"home is a folder"),
        ("- a", r"settings are a mapping"),
        ("registries: !!python/name:os.system []", r"the tag"),
        ("a: [", r"not valid YAML"),
    ],
)
def test_a_mistake_names_its_line(settings: Path, text: str, says: str) -> None:
    settings.write_text(text)
    with pytest.raises(RegistryError, match=says) as caught:
        default_registry()
    assert str(settings) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_was_named_and_is_not_there(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RegistryError, match="CONCEPTGUARD_SETTINGS names it"):
        default_registry()


def test_help_and_doctor_tell_of_them(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings.write_text("")
    assert run(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(variable in said for variable, _ in MEANINGS.values())
    assert max(map(len, said[said.index("Variables") :].splitlines())) <= 80
    run(["doctor"])
    assert "settings" in capsys.readouterr().out


def test_an_address_that_nobody_named_says_what_to_do(
    settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.write_text("")
    address = "https://example.org/registry/sd-1/spm/van-gogh"
    for words in (["pull", address], ["show", f"{address}/artifact.yaml"], ["pull", f"{address}/"]):
        assert run(words) == 1
        said = capsys.readouterr().err
        assert "`CONCEPTGUARD_REGISTRIES=https://example.org/registry conceptguard pull sd-1/spm/van-gogh`" in said
        assert str(settings) in said and said.count("\n") == 1
    for address in ("https://example.org/registry", "https://example.org/registry/index.json", "https://x.org/a/b"):
        assert run(["pull", address]) == 1
        assert "example.org/registry conceptguard list`" in capsys.readouterr().err or address.endswith("a/b")
    LocalSource(tmp_path / "r").add(make(tmp_path / "a"))
    with served(tmp_path / "r") as (here, _):
        monkeypatch.setenv("CONCEPTGUARD_CACHE", str(tmp_path / "cache"))
        registry = Registry([here])
        for end in ("", "/", "/artifact.yaml"):
            assert registry.pull(f"{here}/tiny/spm/cigarette{end}").ref == "tiny/spm/cigarette"
        with pytest.raises(RegistryError, match="none of the registries"):
            registry.pull(f"{here}/tiny/spm/wine")
