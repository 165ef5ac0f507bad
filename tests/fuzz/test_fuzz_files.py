"""Files of strangers: policies, manifests, indexes, headers of weights. What is right is read as it was meant, whatever
it says, and what is wrong is refused in a line.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import safetensors
import safetensors.torch
import torch
from fuzzing import EDITS, NAMES, PLAIN, fuzz, one_line, spoilt
from hypothesis import strategies as st

import conceptguard
from conceptguard.errors import ArtifactError, ConceptGuardError, RegistryError
from conceptguard.files.paths import check_relative, is_ref
from conceptguard.registry import Entry, shards
from conceptguard.registry.artifact import read_tensors
from conceptguard.registry.index import index_bytes, read_index
from conceptguard.registry.listing import Few
from conceptguard.registry.local import LocalSource
from conceptguard.registry.manifest import bound, check_manifest, parse_manifest
from conceptguard.registry.reindex import change_index, read_whole

CONCEPTS = st.fixed_dictionaries(
    {"name": st.text(min_size=1, max_size=20)},
    optional={"prompts": st.lists(st.text(min_size=1, max_size=20), max_size=3), "replacement": st.text(max_size=9)},
)
GUARDS = st.fixed_dictionaries(
    {"method": st.sampled_from(["sld", "spm", "phrases", "probe", "no_thinking", "smp"]) | PLAIN},
    optional={
        "concept": CONCEPTS | PLAIN, "artifact": st.just("emoji-sd/spm/beer") | PLAIN,
        "gate": st.just("always") | PLAIN,
        "strength": st.floats(0, 2) | PLAIN, "preserve": st.lists(st.text(max_size=9), max_size=2) | PLAIN,
        "level": st.just("weak") | PLAIN, "unread": st.just("refuse") | PLAIN,
    },
)  # fmt: skip
POLICIES = st.fixed_dictionaries(
    {"guards": st.lists(GUARDS, max_size=3) | PLAIN},
    optional={"name": st.text(max_size=9) | PLAIN, "on_violation": st.sampled_from(["flag", "blur", "blurr"]) | PLAIN,
              "retries": st.integers(0, 3) | PLAIN, "extra": PLAIN},
)  # fmt: skip


def loaded(source: Any) -> Any:
    """The policy, or the error's first words, which are about what is wrong and not about where."""
    try:
        return conceptguard.load_policy(source)
    except ConceptGuardError as cause:
        one_line(cause)
        return None


@fuzz(400, 15_000, data=POLICIES)
def test_a_policy_is_the_same_as_text_and_as_data(data: Any) -> None:
    """Read by our YAML, which knows less than YAML does, or by JSON: the same guards, or refused both times."""
    text = json.dumps(data, indent=1)
    try:
        plain = json.loads(json.dumps(data, allow_nan=False))
    except ValueError:  # infinite numbers: text that is no number
        assert loaded(text) is None or isinstance(loaded(text), conceptguard.Policy)
        return
    policy, again = loaded(plain), loaded(text)
    assert loaded(json.dumps(data)) == again, "on one line"
    if "\\ud" in text:  # JSON writes letters beyond the first plane in two halves, which YAML takes for no letters
        assert again is None or again == policy
        return
    assert (policy is None) == (again is None), (policy, again)
    if policy is not None:
        assert policy == again and [guard.method for guard in policy.guards] == [
            one["method"] for one in data["guards"]
        ]


@fuzz(900, 15_000, data=POLICIES, edits=EDITS)
def test_a_spoilt_policy_is_refused_or_says_something(data: Any, edits: list[tuple[int, int, str]]) -> None:
    policy = loaded(spoilt("# a policy\n" + json.dumps(data, indent=1), edits) + "\n#\n")
    if policy is not None:
        assert all(conceptguard.plugins.method(guard.method) for guard in policy.guards)


SUFFIXES = st.sampled_from([".safetensors", ".json", ".png", ".md"])
FILES = st.lists(
    st.builds(lambda name, end, sha256, size: {"path": name + end, "sha256": sha256, "size": size},
              NAMES, SUFFIXES, st.from_regex(r"[0-9a-f]{64}", fullmatch=True), st.integers(0, 2**35 - 1)),
    max_size=3, unique_by=lambda one: one["path"],
)  # fmt: skip
FINITE = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
MANIFESTS = st.fixed_dictionaries(
    {
        "name": NAMES, "method": NAMES, "files": FILES,
        "base": st.fixed_dictionaries({"family": NAMES, "fingerprint": st.sampled_from(["", "arch:0123456789abcdef"])}),
        "concept": st.fixed_dictionaries(
            {"name": st.text(min_size=1, max_size=40),
             "prompts": st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=3)}
        ),
    },
    optional={"licence": st.text(max_size=40), "version": st.text(min_size=1, max_size=9),
              "card": st.dictionaries(st.text(max_size=10), FINITE, max_size=3),
              "made": st.dictionaries(st.text(max_size=10), FINITE, max_size=3)},
)  # fmt: skip
WRONG = st.sampled_from(
    [("name", "../x"), ("name", "con"), ("method", "A"), ("files", [{"path": "x.pt", "sha256": "0" * 64, "size": 1}]),
     ("files", [{"path": "../x.json", "sha256": "0" * 64, "size": 1}]), ("files", None),
     ("schema", 99), ("schema", "1"),
     ("files", [{"path": "x.json", "sha256": "0" * 63, "size": 1}]), ("concept", {"name": "x", "prompts": []}),
     ("binds", "0" * 64), ("extra", 1), ("base", {"family": "a/b"}), ("version", "")]
)  # fmt: skip


@fuzz(250, 15_000, fields=MANIFESTS, wrong=WRONG, edits=EDITS)
def test_a_manifest_is_read_as_it_was_written(fields: Any, wrong: Any, edits: list[tuple[int, int, str]]) -> None:
    good = bound(check_manifest(fields, "artifact.yaml"))
    text = good.to_yaml()
    assert parse_manifest(text.encode(), "artifact.yaml") == good
    with pytest.raises(ArtifactError) as caught:
        check_manifest({**fields, wrong[0]: wrong[1]}, "artifact.yaml")
    one_line(caught.value)
    try:
        read = parse_manifest(spoilt(text, edits).encode("utf-8", "surrogatepass"), "artifact.yaml")
    except ArtifactError as cause:
        one_line(cause)
    else:
        assert is_ref(read.ref) and all(check_relative(file.path) for file in read.files)
        assert read.binds in ("", read.binding), "what binds a manifest to its files says so"


def _entry(base: str, method: str, name: str, concept: str, prompts: list[str], card: Any, version: str) -> Entry:
    own = name, method, concept, base, version, 5, "0" * 64, 9
    return Entry(f"{base}/{method}/{name}", *own, prompts=tuple(prompts), card=card)


KIND = st.sampled_from(["a", "b"])
ENTRIES = st.builds(
    _entry, KIND, KIND, st.sampled_from("abcdefgh") | NAMES, st.text(max_size=20),
    st.lists(st.text(max_size=9), max_size=2),
    st.dictionaries(st.text(max_size=5), FINITE, max_size=2), st.sampled_from(["1", "2"]),
)  # fmt: skip
LISTS = st.lists(ENTRIES, max_size=8, unique_by=lambda one: one.ref)


@fuzz(250, 15_000, entries=LISTS, edits=EDITS)
def test_an_index_is_read_as_it_was_written(entries: list[Entry], edits: list[tuple[int, int, str]]) -> None:
    data = index_bytes(entries)
    assert read_index(data, "").entries == sorted(entries, key=lambda one: one.ref)
    parts = [shards.shard_bytes(part) for part in shards.split(entries, 4)]
    names = [shards.Shard(hashlib.sha256(part).hexdigest(), len(part)) for part in parts]
    listed = read_whole(shards.root_bytes(names, len(entries), 7), "")
    assert isinstance(listed, shards.Shards)
    found = [one for number, part in enumerate(parts) for one in shards.read_shard(part, listed, number, "")]
    assert sorted(found, key=lambda one: one.ref) == sorted(entries, key=lambda one: one.ref)
    for text in (data, shards.root_bytes(names, len(entries), 7)):
        try:
            read = read_whole(spoilt(text.decode(), edits).encode("utf-8", "surrogatepass"), "here")
        except RegistryError as cause:
            one_line(cause)
        else:
            for one in read if isinstance(read, list) else ():
                assert is_ref(one.ref) and len(one.sha256) == 64 and isinstance(one.row(), dict)


STEPS = st.lists(ENTRIES | st.sampled_from(["a/a/a", "a/b/c"]), min_size=1, max_size=6)


@fuzz(10, 4_000, first=LISTS, steps=STEPS, asked=st.text(max_size=3))
def test_a_large_registry_is_what_its_entries_are(first: list[Entry], steps: list[Any], asked: str) -> None:
    """One that is sharded and kept in a catalogue, against a list in memory, change by change."""
    model = {one.ref: one for one in first}
    with (
        tempfile.TemporaryDirectory() as folder, mock.patch.object(shards, "FEW", 3), mock.patch("os.fsync"),
        mock.patch.object(shards, "PER_SHARD", 2), mock.patch.dict("os.environ", CONCEPTGUARD_CACHE=f"{folder}/cache"),
    ):  # fmt: skip
        root = Path(folder) / "r"
        root.mkdir()
        for one in first:
            change_index(root, one)
        for step in steps:
            if isinstance(step, Entry):
                model[step.ref] = step
                change_index(root, step)
            else:
                model.pop(step, None)
                change_index(root, None, step)
            want = Few(sorted((dataclasses.replace(one, source=str(root)) for one in model.values()),
                              key=lambda one: one.ref))  # fmt: skip
            found = LocalSource(root).listing()
            assert list(found) == list(want) and len(found) == len(want)
        texts = {asked, *(one.concept for one in model.values()), *(one.name[:2] for one in model.values())}
        for text in texts:
            assert list(found.search(text)) == list(want.search(text)), text
            assert list(found.search(text, method="a", base="b")) == list(want.search(text, method="a", base="b"))
        for end in {one.name for one in model.values()} | {f"a/{one.name}" for one in model.values()} | {asked}:
            assert found.ending(end) == want.ending(end) and found.get(end) == want.get(end)
        assert found.kinds("base") == want.kinds("base")


DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.float64])
SHAPES = st.lists(st.integers(0, 3), max_size=3)
TENSORS = st.dictionaries(st.text(max_size=9).filter(lambda key: key != "__metadata__"), st.tuples(DTYPES, SHAPES),
                          min_size=1, max_size=4)  # fmt: skip


@fuzz(700, 12_000, wanted=TENSORS, metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=2),
      edits=EDITS, cut=st.integers(0, 200))  # fmt: skip
def test_weights_are_what_the_library_reads(wanted: Any, metadata: Any, edits: Any, cut: int) -> None:
    tensors = {key: torch.zeros(shape, dtype=dtype) + 1 for key, (dtype, shape) in wanted.items()}
    data = safetensors.torch.save(tensors, metadata=metadata)
    found = read_tensors(data, "w.safetensors")
    assert found.keys() == tensors.keys()
    assert all(found[key].dtype == one.dtype and torch.equal(found[key], one) for key, one in tensors.items())
    size = int.from_bytes(data[:8], "little")
    header = spoilt(data[8 : 8 + size].decode(), edits).encode("utf-8", "surrogatepass")
    for bad in (data[: max(0, len(data) - 1 - cut)], len(header).to_bytes(8, "little") + header + data[8 + size :]):
        try:
            found = read_tensors(bad, "w.safetensors")
        except ArtifactError as cause:
            one_line(cause)
        else:  # then the library takes it too, and reads the same
            theirs = safetensors.torch.load(bad)
            assert found.keys() == theirs.keys()
            assert all(torch.equal(found[key], one) for key, one in theirs.items())
