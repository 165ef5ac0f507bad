"""Registries of many artifacts: an index of shards, read once into a catalogue, and looked through in no time."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from registry_tools import make, served
from test_registry_network import many

from conceptguard.cli import run
from conceptguard.errors import RegistryError
from conceptguard.registry import Entry, Registry, reindex, shards
from conceptguard.registry.index import index_bytes
from conceptguard.registry.local import LocalSource
from conceptguard.registry.reindex import change_index, read_whole, write_index
from conceptguard.registry.remote import RemoteSource

COUNT = 3000


def named(entries: list[Entry]) -> list[Entry]:
    """Every entry about something of its own, in three families."""
    bases = ("sd-1", "sdxl", "flux")
    return [
        dataclasses.replace(
            entry, base=bases[i % 3], ref=f"{bases[i % 3]}/spm/thing-{i}", name=f"thing-{i}", concept=f"Thing {i}",
            prompts=(f"thing {i}", f"Änything like {i}"), card={"n": i},
        )
        for i, entry in enumerate(entries)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    return named(many(tmp_path_factory.mktemp("one"), COUNT))


@pytest.fixture
def large(tmp_path: Path, entries: list[Entry], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry folder whose index has shards; the artifacts themselves are not there."""
    monkeypatch.setenv("CONCEPTGUARD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "r").mkdir()
    write_index(tmp_path / "r", entries)
    return tmp_path / "r"


def same_entries(found: Any, wanted: list[Entry]) -> bool:
    """Whatever the sources are called."""
    plain = [dataclasses.replace(one, source="") for one in found]
    return plain == sorted((dataclasses.replace(one, source="") for one in wanted), key=lambda one: one.ref)


def test_everything_is_listed_and_found(large: Path, entries: list[Entry]) -> None:
    registry = Registry([large])
    found = registry.entries()
    assert len(found) == COUNT and same_entries(found, entries)
    assert found[0].ref == min(entry.ref for entry in entries) and found[-1] == list(found)[-1]
    assert [entry.ref for entry in found[10:13]] == sorted(entry.ref for entry in entries)[10:13]
    assert registry.find("thing-77").card == {"n": 77} and registry.find("spm/thing-78").concept == "Thing 78"
    hits = [entry.name for entry in registry.search("THING 299", base="flux")]
    assert hits == ["thing-299", "thing-2990", "thing-2993", "thing-2996", "thing-2999"]
    assert [entry.name for entry in registry.search("ÄNYTHING LIKE 2999")] == ["thing-2999"]
    assert not list(registry.search("thing", method="uce")) and len(list(registry.search(base="sdxl"))) == COUNT // 3
    with pytest.raises(RegistryError, match=r"did you mean .*/spm/thing-77[,?]"):
        registry.find("thjng-77")
    with pytest.raises(RegistryError, match="did you mean flux/spm/thing-2999"):
        registry.find("flux/spm/thing-29999")


def test_an_entry_of_the_catalogue_is_an_entry(large: Path, entries: list[Entry]) -> None:
    found, wanted = Registry([large]).entries()[5], sorted(entries, key=lambda one: one.ref)[5]
    wanted = dataclasses.replace(wanted, source=str(large))
    assert found == wanted and wanted == found and found != dataclasses.replace(wanted, size=1)
    assert pickle.loads(pickle.dumps(found)) == wanted and copy.copy(found) == wanted and found.row() == wanted.row()
    assert dataclasses.replace(found, name="x") == dataclasses.replace(wanted, name="x") and repr(wanted)[6:] in repr(
        found
    )


def test_the_first_registry_counts_here_too(large: Path, tmp_path: Path, entries: list[Entry]) -> None:
    mine = dataclasses.replace(entries[7], version="mine")
    (tmp_path / "few").mkdir()
    write_index(tmp_path / "few", [mine, dataclasses.replace(mine, ref="sd-1/spm/new", base="sd-1", name="new")])
    both = Registry([tmp_path / "few", large])
    assert len(both.entries()) == COUNT + 1 == sum(1 for _ in both.entries())
    assert both.find("thing-7").version == "mine" and next(both.search("thing 7", base=mine.base)).version == "mine"
    assert [e.version for e in both.entries() if e.ref == mine.ref] == ["mine"]
    assert len(Registry([large, tmp_path / "few"]).entries()) == COUNT + 1


def test_one_is_resolved_by_one_shard(large: Path, tmp_path: Path, entries: list[Entry]) -> None:
    with served(large) as (address, asked):
        found = RemoteSource(address, tmp_path / "far").find(entries[5].ref)
        assert found is not None and same_entries([found], [entries[5]]) and len(asked) == 2
        assert found.source == address
        assert asked[0] == "/index.json" and asked[1].startswith("/index/")
        assert same_entries(RemoteSource(address, tmp_path / "far").entries(), entries)
        listed, before = read_whole((large / "index.json").read_bytes(), ""), len(asked)
        assert isinstance(listed, shards.Shards) and before == 3 + len(listed.shards) - 1, (
            "what is there is not asked for"
        )
        source = RemoteSource(address, tmp_path / "far")
        assert len(source.entries()) == COUNT and source.find(entries[9].ref) and asked[before:] == ["/index.json"]
        assert source.find("sd-1/spm/nothing") is None
    assert len(RemoteSource(address, tmp_path / "far").entries()) == COUNT, "nobody answers any more"


def test_a_change_writes_one_shard_and_is_read_as_one(large: Path, tmp_path: Path, entries: list[Entry]) -> None:
    def files() -> set[str]:
        return {path.name for path in (large / "index").iterdir()}

    source, before = RemoteSource, files()
    with served(large) as (address, asked):
        assert len(source(address, tmp_path / "far").entries()) == COUNT
        serial = json.loads((large / "index.json").read_text())["serial"]
        changed = dataclasses.replace(entries[3], version="2")
        change_index(large, changed)
        assert len(files() - before) == 1 and before < files(), "who reads the version before finds its shards"
        assert json.loads((large / "index.json").read_text())["serial"] > serial
        start = len(asked)
        found = source(address, tmp_path / "far").entries()
        assert len(asked) - start == 2 and same_entries(found, [*entries[:3], changed, *entries[4:]])
        change_index(large, None, changed.ref)
        assert len(files() - before) == 2 and len(before - files()) == 1, "of shards, those of two versions are kept"
        assert same_entries(Registry([large]).entries(), [*entries[:3], *entries[4:]])
        assert len(list((tmp_path / "cache" / "catalogues").rglob("*.sqlite"))) == 1, "and of catalogues the last one"


def test_many_become_few_and_few_become_many(
    tmp_path: Path, entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCEPTGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shards, "FEW", 20)
    monkeypatch.setattr(shards, "PER_SHARD", 4)
    root = tmp_path / "r"
    root.mkdir()
    layouts = []
    for number, entry in enumerate(entries[:30], 1):
        change_index(root, entry)
        fields = json.loads((root / "index.json").read_text())
        layouts.append(len(fields.get("shards", [])))
        assert same_entries(LocalSource(root).entries(), entries[:number])
    assert layouts[19] == 0 and layouts[20] == 8 and layouts[-1] == 8
    for number, entry in enumerate(entries[:30], 1):
        change_index(root, None, entry.ref)
        assert same_entries(LocalSource(root).entries(), entries[number:30])
    assert not list((root / "index").iterdir()) or len(list((root / "index").iterdir())) <= 8


def spoilt(root: Path, how: str) -> None:
    """Make one shard wrong."""
    listed = json.loads((root / "index.json").read_text())
    path = root / "index" / f"{listed['shards'][0]['sha256']}.json"
    other = (root / "index" / f"{listed['shards'][1]['sha256']}.json").read_bytes()
    if how == "altered":
        path.write_bytes(path.read_bytes().replace(b"thing", b"think"))
    elif how == "gone":
        path.unlink()
    else:  # the index agrees with what an attacker put there
        data = other if how == "elsewhere" else path.read_bytes().replace(b'"size": ', b'"size": -', 1)
        sha256 = hashlib.sha256(data).hexdigest()
        (root / "index" / f"{sha256}.json").write_bytes(data)
        listed["shards"][0] = {"sha256": sha256, "size": len(data)}
        (root / "index.json").write_text(json.dumps(listed))


@pytest.mark.parametrize("how", ["altered", "gone", "elsewhere", "nonsense"])
def test_a_shard_that_is_not_right(large: Path, tmp_path: Path, entries: list[Entry], how: str) -> None:
    spoilt(large, how)
    bad = next(entry for entry in entries if shards.number_of(entry.ref, 8) == 0)
    with pytest.raises(RegistryError) as caught:
        len(LocalSource(large).entries())
    assert "\n" not in str(caught.value)
    with served(large) as (address, _):
        with pytest.raises(RegistryError):
            RemoteSource(address, tmp_path / "far").find(bad.ref)
        with pytest.raises(RegistryError):
            RemoteSource(address, tmp_path / "far").entries()
        good = next(entry for entry in entries if shards.number_of(entry.ref, 8) == 5)
        assert RemoteSource(address, tmp_path / "far").find(good.ref) is not None
    assert not list((tmp_path / "far").rglob("*.sqlite")), "no catalogue of half an index"


@pytest.mark.parametrize(
    "change",
    [{"shards": []}, {"shards": [{}]}, {"shards": {}}, {"count": -1}, {"count": 1}, {"count": "9"},
     {"serial": "x"}, {"schema": 3},
     {"shards": [{"sha256": "../x", "size": 1}]}, {"shards": [{"sha256": "0" * 64, "size": 10**12}]},
     {"shards": [{"sha256": "0" * 64, "size": 1}] * 5000}, {"shards": [{"sha256": "0" * 64, "size": 2**24}] * 200}],
)  # fmt: skip
def test_an_index_that_names_shards_that_cannot_be(large: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    fields = json.loads((large / "index.json").read_text())
    (large / "index.json").write_text(json.dumps({**fields, **change}))
    with served(large) as (address, asked), pytest.raises(RegistryError):
        RemoteSource(address, tmp_path / "far").entries()
    if change != {"count": 1}:
        assert len(asked) == 1 and not list(tmp_path.rglob("*.sqlite"))


def test_what_is_replaced_while_it_is_read(large: Path, entries: list[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two changes while a reader goes through the shards: those that it is to read are gone, and it begins anew."""
    read, left = reindex.read_part, [2]
    late = [entry for entry in entries[:40] if shards.number_of(entry.ref, 8) > 6]

    def reading(root: Path, listed: shards.Shards, number: int, source: str = "") -> list[Entry]:
        if left[0] and number > 3:
            left[0] -= 1
            for version in ("2", "3"):
                for entry in late:
                    reindex.change_index(large, dataclasses.replace(entry, version=f"{version}.{left[0]}"))
        return read(root, listed, number, source)

    monkeypatch.setattr("conceptguard.registry.local.read_part", reading)
    found = LocalSource(large).entries()
    assert len(found) == COUNT and not left[0]
    assert late and {one.version for one in found if one.ref in [entry.ref for entry in late]} == {"3.0"}


def test_without_a_cache_it_is_read_each_time(
    large: Path,
    tmp_path: Path,
    entries: list[Entry],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("CONCEPTGUARD_CACHE", str(tmp_path / "blocked" / "cache"))
    assert same_entries(LocalSource(large).entries(), entries) and "is not kept" in capsys.readouterr().err


def test_a_damaged_catalogue_is_made_anew(large: Path, tmp_path: Path, entries: list[Entry]) -> None:
    assert len(LocalSource(large).entries()) == COUNT
    (kept,) = (tmp_path / "cache").rglob("*.sqlite")
    kept.write_bytes(b"SQLite format 3\0" + bytes(5000))
    assert same_entries(LocalSource(large).entries(), entries)


@pytest.mark.parametrize("page", [1, 40, -3])
def test_a_damaged_page_of_a_catalogue_is_told_once(
    large: Path, tmp_path: Path, entries: list[Entry], page: int
) -> None:
    """What a power cut may leave: the name is there, and not all of the content."""
    assert len(LocalSource(large).entries()) == COUNT
    (kept,) = (tmp_path / "cache").rglob("*.sqlite")
    data = kept.read_bytes()
    begin = page * 4096 % len(data)
    kept.write_bytes(data[:begin] + bytes(4096) + data[begin + 4096 :])
    for _ in range(2):
        try:
            assert same_entries(LocalSource(large).entries(), entries)
        except RegistryError as cause:
            assert "and deleted: do the same again" in str(cause) and not kept.exists()
    assert same_entries(LocalSource(large).entries(), entries)


def test_one_long_file_is_read_once(tmp_path: Path, entries: list[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    """As an earlier version wrote it: no shards, however many artifacts."""
    monkeypatch.setenv("CONCEPTGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("conceptguard.registry.local.LARGE", 1000)
    monkeypatch.setattr("conceptguard.registry.opening.LARGE", 1000)
    root = tmp_path / "r"
    root.mkdir()
    (root / "index.json").write_bytes(index_bytes(entries))
    with served(root) as (address, _):
        for source in (LocalSource(root), RemoteSource(address, tmp_path / "far")):
            assert same_entries(source.entries(), entries)
        assert RemoteSource(address, tmp_path / "far").find(entries[5].ref) is not None
    lines = (root / "index.json").read_bytes().splitlines(keepends=True)
    for wrong in (lines[:-1], [*lines[:5], b"{,\n", *lines[5:]], [lines[0], lines[1], *lines[1:]], [*lines, b"]}\n"]):
        (root / "index.json").write_bytes(b"".join(wrong))
        with pytest.raises(RegistryError, match=r"not valid JSON|twice"):
            LocalSource(root).entries()


def test_the_table_is_no_longer_than_is_read(large: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("CONCEPTGUARD_REGISTRIES", str(large))
    assert run(["list", "--method", "spm", "--concept", "thing"]) == 0
    said = capsys.readouterr()
    assert said.out.count("\n") == 1001 and "2,000 more: narrow them" in said.err
    assert run(["list", "--concept", "thing", "--limit", "0"]) == 0 and capsys.readouterr().out.count("\n") == 3001
    assert run(["list", "--concept", "thing", "--json", "-"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 3000
    assert run(["list", "--concept", "thimg 2999"]) == 1 and "did you mean 'thing-2999'" in capsys.readouterr().err


HUNDRED_THOUSAND = """
import sys, time
from conceptguard.registry import Registry
registry = Registry([sys.argv[1]])
registry.entries()
for name, do in (("list", lambda: sum(1 for _ in registry.entries())), ("find", lambda: registry.find("thing-54321")),
                 ("search", lambda: len(list(registry.search("thing 5432"))))):
    begin = time.process_time()
    do()
    print(time.process_time() - begin)
# What getrusage tells begins with what the parent had.
print(next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_a_hundred_thousand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of computing after the first read, and megabytes."""
    monkeypatch.setenv("CONCEPTGUARD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "r").mkdir()
    write_index(tmp_path / "r", named(many(tmp_path, 100_000)))
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", HUNDRED_THOUSAND, str(tmp_path / "r")], capture_output=True, text=True
        )
        listing, finding, searching, megabytes = map(float, done.stdout.split())
    assert listing < 0.3 and finding < 0.05 and searching < 0.3 and megabytes < 100, done.stdout
    begin = time.process_time()
    LocalSource(tmp_path / "r").add(make(tmp_path / "new"))
    assert time.process_time() - begin < 1.0, "what one change costs"
