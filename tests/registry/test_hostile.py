"""Hostile files: whatever a manifest, an index or a weight file says, it is loaded rightly or refused in our words.

Each case makes one good registry bad in one or several ways, from a seed. Allowed outcomes: our own error, or a load
that agrees with what the safetensors library reads. Never another exception, never a file outside the cache.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from registry_tools import make, membrane, uploaded

from conceptguard.errors import ArtifactError, ConceptGuardError, RegistryError
from conceptguard.files.header import parse_header
from conceptguard.files.paths import check_relative, is_ref
from conceptguard.registry import Manifest, Registry, open_artifact
from conceptguard.registry.artifact import read_tensors
from conceptguard.registry.index import parse_index
from conceptguard.registry.local import LocalSource
from conceptguard.registry.manifest import parse_manifest
from conceptguard.registry.remote import RemoteSource

NASTY: list[Any] = [
    None, True, -1, 0, 2**31, 2**63, 2**64, 10**30, 1e308, "", " ", ".", "..", "../x", "/etc/passwd", "C:\\x", "a\x00b",
    "a/../b", "a//b", "con", "x.pt", "x.safetensors", "-x", "\u202egnp", "x" * 5000, [], {}, [[]], {"": 0}, ["../x"],
    "!!python/object:os.system", "&a", "*a", "<<", "0" * 64, "g" * 64, "arch:zz", ["x"] * 3000, "~/x", "file:///etc/passwd",
    "x.safetensors\n", "x.safetensors ", "x.safetensors.", "\\\\host\\x", "x:y.json",
]  # fmt: skip
SCRAPS = [
    b"&a ",
    b"*a",
    b"!!python/name:os.system ",
    b"\n---\n",
    b"<<: ",
    b"\x00",
    b"\xff",
    b"[" * 60,
    b"{",
    b"}",
    b'"',
    b"\t",
]
SCRAPS += [b"schema: 9\n", b'"schema": 9,', b"? ", b"...\n", b"\xe2\x80\xa8", b"9" * 400, b"NaN", b"1e999", b"- " * 50]


def spoil_bytes(data: bytes, chance: random.Random) -> bytes:
    """Cut, flip, insert, repeat or remove."""
    spoiled = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(spoiled) + 1)
        kind = chance.randrange(5)
        if kind == 0:
            del spoiled[at:]
        elif kind == 1 and at < len(spoiled):
            spoiled[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            spoiled[at:at] = chance.choice(SCRAPS)
        elif kind == 3:
            spoiled[at:at] = spoiled[at : at + chance.randrange(1, 200)]
        else:
            del spoiled[at : at + chance.randrange(1, 40)]
    return bytes(spoiled)


def spoil_data(data: Any, chance: random.Random) -> Any:
    """Replace, drop or add one value somewhere in plain data."""
    data = json.loads(json.dumps(data))
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(data)
    for _ in range(chance.randrange(1, 3)):
        node, key = chance.choice(places)
        kind = chance.randrange(6)
        if kind == 0 and isinstance(node, dict):
            node.pop(key, None)
        elif kind == 1 and isinstance(node, dict):
            node[chance.choice(["extra", "__class__", "schema", "path", "", "ref"])] = chance.choice(NASTY)
        elif isinstance(node, dict) or key < len(node):
            node[key] = chance.choice(NASTY)
    return data


def manifest_case(good: bytes, chance: random.Random) -> None:
    """A manifest that passes is one whose names and paths are harmless, and it says the same when written again."""
    from conceptguard.files import yaml

    if chance.random() < 0.5:
        data = spoil_bytes(good, chance)
    else:
        data = json.dumps(spoil_data(yaml.parse(good)[0], chance)).encode()
    try:
        manifest = parse_manifest(data, "artifact.yaml")
    except ConceptGuardError as cause:
        assert_one_line(cause)
        return
    assert isinstance(manifest, Manifest) and is_ref(manifest.ref)
    assert all(check_relative(file.path) and file.size >= 0 for file in manifest.files)
    assert parse_manifest(manifest.to_yaml().encode(), "again") == manifest


def index_case(good: bytes, chance: random.Random) -> None:
    """An index that passes names references that stay inside the registry."""
    data = spoil_bytes(good, chance)
    if chance.random() < 0.5:
        data = json.dumps(spoil_data(json.loads(good), chance)).encode()
    try:
        entries = parse_index(data, "registry")
    except ConceptGuardError as cause:
        assert_one_line(cause)
        return
    for entry in entries:
        assert is_ref(entry.ref) and len(entry.sha256) == 64 and isinstance(entry.row(), dict)


def weights_case(good: bytes, chance: random.Random) -> None:
    """Weights that pass are what the library reads, finite, and without repeated keys."""
    length = int.from_bytes(good[:8], "little")
    header, body = good[8 : 8 + length], good[8 + length :]
    kind = chance.randrange(5)
    if kind == 0:
        data = spoil_bytes(good, chance)
    elif kind == 1:
        data = chance.choice([2**20, 2**24, 2**31, 2**63 - 1, 2**64 - 1, 0, 1]).to_bytes(8, "little") + good[8:]
    elif kind == 2:
        text = json.dumps(spoil_header(json.loads(header), chance)).encode()
        data = len(text).to_bytes(8, "little") + text + body
    elif kind == 3:
        name = next(iter(k for k in json.loads(header) if k != "__metadata__"))
        twice = json.dumps(json.loads(header)[name]).encode()
        text = header.rstrip()[:-1] + b"," + json.dumps(name).encode() + b":" + twice + b"}"
        data = len(text).to_bytes(8, "little") + text + body
        with pytest.raises(ArtifactError, match="given twice"):
            parse_header(data, "w.safetensors")
    else:
        at = chance.randrange(len(body) // 4) * 4
        bad = chance.choice([b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff", b"\x01\x00\x80\x7f"])
        data = good[: 8 + length] + body[:at] + bad + body[at + 4 :]
        with pytest.raises(ArtifactError, match="NaN or infinite"):
            read_tensors(data, "w.safetensors")
    try:
        tensors = read_tensors(data, "w.safetensors")
    except ConceptGuardError as cause:
        assert_one_line(cause)
        return
    theirs = safetensors.torch.load(data)
    assert tensors.keys() == theirs.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name])
        assert bool(tensor.double().isfinite().all())


def spoil_header(header: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Wrong dtypes, shapes and offsets, more often than plain nonsense."""
    names = [name for name in header if name != "__metadata__"]
    slot = header[chance.choice(names)]
    kind = chance.randrange(8)
    if kind == 0:
        slot["dtype"] = chance.choice(["F64", "F16", "I32", "BOOL", "F128", "f32", "", 3, None, "U8", "C64", "F4"])
    elif kind == 1:
        slot["shape"] = chance.choice(
            [[], [0], [-1], [2**63], [2**32, 2**32], [1] * 100, [True], [1.0], "8", None, [8, 2]]
        )
    elif kind == 2:
        slot["data_offsets"] = chance.choice(
            [[0, 0], [-4, 0], [4, 0], [0, 2**63], [0], [0, 1, 2], None, [0, 32], [0.0, 32.0]]
        )
    elif kind == 3:
        other = header[chance.choice(names)]
        slot["data_offsets"], other["data_offsets"] = other["data_offsets"], slot["data_offsets"]
    elif kind == 4:
        header["__metadata__"] = chance.choice([{"a": 1}, [], "x", {"a": {"b": "c"}}, {}, None, {"a": None}])
    elif kind == 5:
        slot["extra"] = 1
    elif kind == 6:
        return spoil_data(header, chance)
    else:
        header["x" * 100_000] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return header


def disk_case(mirror: Path, work: Path, chance: random.Random) -> None:
    """A registry that lies, links out, or holds special files, as a folder and as a remote source."""
    shutil.copytree(mirror, work / "r")
    secret = work / "secret.safetensors"
    secret.write_bytes(safetensors.torch.save({"secret": torch.ones(3)}))
    cache = work / "cache"
    folder = work / "r" / "tiny" / "spm" / "cigarette"
    weights, manifest, index = folder / "cigarette.safetensors", folder / "artifact.yaml", work / "r" / "index.json"
    kind = chance.randrange(9)
    if kind == 0:
        replace_with(weights, lambda: weights.symlink_to(secret))
    elif kind == 1:
        replace_with(weights, lambda: os.mkfifo(weights))
    elif kind == 2:
        replace_with(weights, weights.mkdir)
    elif kind == 3:
        shutil.move(str(folder), str(work / "outside"))
        folder.symlink_to(work / "outside", target_is_directory=True)
    elif kind == 4:
        escape = chance.choice(
            ["../../../../secret.safetensors", str(secret), "..\\secret.safetensors", "a/../../x.json"]
        )
        manifest.write_text(manifest.read_text().replace("cigarette.safetensors", escape))
        honest_index(index, manifest)
    elif kind == 5:
        manifest.write_bytes(spoil_bytes(manifest.read_bytes(), chance))
        honest_index(index, manifest)
    elif kind == 6:
        weights.write_bytes(spoil_bytes(weights.read_bytes(), chance))
    elif kind == 7:
        index.write_text(json.dumps(spoil_data(json.loads(index.read_text()), chance)))
    else:
        manifest.write_bytes(manifest.read_bytes().replace(b"size: ", b"size: 9999999"))
        honest_index(index, manifest)
    before = everything(work, cache)
    sources: list[LocalSource | RemoteSource] = [LocalSource(work / "r")]
    if kind > 3:
        sources.append(RemoteSource(uploaded(work / "r"), cache))
    for source in sources:
        registry = Registry([source])
        for use in (
            lambda registry=registry: registry.load("tiny/spm/cigarette").tensors(),
            lambda source=source: source.pull("tiny/spm/cigarette").tensors(),
            lambda registry=registry: registry.load("cigarette").verify(),
        ):
            try:
                tensors = use()
            except ConceptGuardError as cause:
                assert_one_line(cause)
            else:
                assert isinstance(tensors, int) or {n: t.tolist() for n, t in tensors.items()} == WANTED
        assert all(isinstance(row["ok"], bool) for row in registry.verify())
    assert everything(work, cache) == before, "something was written outside the cache"


def replace_with(path: Path, make_it: Callable[[], Any]) -> None:
    path.unlink()
    make_it()


def honest_index(index: Path, manifest: Path) -> None:
    """Let the index agree with a spoiled manifest, as an attacker would."""
    import hashlib

    fields = json.loads(index.read_text())
    data = manifest.read_bytes()
    fields["entries"][0] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes_manifest": len(data)}
    index.write_text(json.dumps(fields))


def everything(root: Path, but: Path) -> dict[str, Any]:
    """Every path under `root` outside `but`, with sizes and times of writing."""
    found = {}
    for folder, folders, files in os.walk(root):
        if Path(folder) == but:
            folders.clear()
            continue
        for name in files + folders:
            path = os.path.join(folder, name)
            stat = os.lstat(path)
            found[path] = (stat.st_mode, stat.st_size if name in files else 0, stat.st_mtime_ns if name in files else 0)
    found.pop(str(but), None)
    return found


def assert_one_line(cause: ConceptGuardError) -> None:
    text = str(cause)
    assert text and "\n" not in text and len(text) < 2000, text[:300]


WANTED = {name: tensor.tolist() for name, tensor in membrane(0.5).items()}


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with one artifact."""
    root = tmp_path_factory.mktemp("good")
    LocalSource(root / "r").add(make(root / "made", seed=0.5))
    return root / "r"


def run_cases(mirror: Path, tmp_path: Path, seeds: range) -> None:
    torch.set_num_threads(1)
    folder = mirror / "tiny" / "spm" / "cigarette"
    files = {name: (folder / name).read_bytes() for name in ("artifact.yaml", "cigarette.safetensors")}
    index = (mirror / "index.json").read_bytes()
    for seed in seeds:
        chance = random.Random(seed)
        kind = seed % 20
        try:
            if kind < 6:
                manifest_case(files["artifact.yaml"], chance)
            elif kind < 12:
                index_case(index, chance)
            elif kind < 19:
                weights_case(files["cigarette.safetensors"], chance)
            else:
                work = tmp_path / str(seed)
                disk_case(mirror, work, chance)
                shutil.rmtree(work)
        except Exception as cause:
            raise AssertionError(f"seed {seed}: {type(cause).__name__}: {cause}") from cause


def test_hostile_files(mirror: Path, tmp_path: Path) -> None:
    run_cases(mirror, tmp_path, range(400))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_hostile_files(mirror: Path, tmp_path: Path) -> None:
    run_cases(mirror, tmp_path, range(1000, 11_000))


def test_the_good_one_passes(mirror: Path, tmp_path: Path) -> None:
    """Otherwise every case above could pass by refusing all."""
    assert open_artifact(mirror / "tiny/spm/cigarette").tensors()
    found = Registry([RemoteSource(uploaded(mirror), tmp_path)]).load("tiny/spm/cigarette").tensors()
    assert {name: tensor.tolist() for name, tensor in found.items()} == WANTED


@pytest.mark.parametrize("link", ["weights", "folder", "manifest"])
def test_links_that_lead_out_are_refused(mirror: Path, tmp_path: Path, link: str) -> None:
    """Even where the content behind the link is exactly what the manifest promises."""
    shutil.copytree(mirror, tmp_path / "r")
    folder = tmp_path / "r/tiny/spm/cigarette"
    path = {"weights": folder / "cigarette.safetensors", "manifest": folder / "artifact.yaml", "folder": folder}[link]
    shutil.move(str(path), str(tmp_path / "outside"))
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(ArtifactError, match="leads out"):
        LocalSource(tmp_path / "r").load("tiny/spm/cigarette").tensors()


@pytest.mark.timeout(60)
def test_a_pipe_in_place_of_the_manifest_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "artifact.yaml")
    with pytest.raises(ArtifactError, match="not a regular file"):
        open_artifact(tmp_path)


@pytest.mark.parametrize("offsets", [([0, 8], [0, 8], [8, 16]), ([0, 8], [4, 12], [8, 16]), ([0, 8], [0, 8], [0, 8])])
def test_tensors_that_overlap_are_refused(offsets: tuple[list[int], ...]) -> None:
    """Each slot is sound by itself; together they read the same bytes twice."""
    slots = {str(n): {"dtype": "F32", "shape": [2], "data_offsets": place} for n, place in enumerate(offsets)}
    text = json.dumps(slots).encode()
    with pytest.raises(ArtifactError, match="overlap"):
        read_tensors(len(text).to_bytes(8, "little") + text + bytes(16), "w.safetensors")


def test_a_header_over_the_limit_is_refused_though_the_file_has_it() -> None:
    text = b"{" + b" " * (16 * 1024 * 1024) + b"}"
    with pytest.raises(ArtifactError, match="its header claims"):
        parse_header(len(text).to_bytes(8, "little") + text, "w.safetensors")


def test_an_index_that_lists_a_reference_twice_is_refused(mirror: Path) -> None:
    index = json.loads((mirror / "index.json").read_text())
    index["entries"] *= 2
    with pytest.raises(RegistryError, match="twice"):
        parse_index(json.dumps(index).encode(), "registry")
