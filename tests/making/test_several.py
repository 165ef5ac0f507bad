"""Many concepts in one solve: each is guarded, any is withdrawn to the last bit, and making can be interrupted."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.diffusion.nullspace import Nullspace
from conceptguard_plugins.diffusion.rece import RECE
from conceptguard_plugins.diffusion.spm.method import SPM
from conceptguard_plugins.diffusion.trce.method import TRCE
from conceptguard_plugins.diffusion.uce import UCE
from random_artifacts import terms_of
from tiny import generate, tiny_sd

import conceptguard
from conceptguard import Method
from conceptguard.errors import PolicyError, RegistryError
from conceptguard.generation.conditioning import Encoded
from conceptguard.making.edits.each import Paired
from conceptguard.measuring.cases import concepts_of
from conceptguard.plugins import host_for
from conceptguard.policy_file import load_policy
from conceptguard.registry import Artifact

THINGS = ["cigarette", "pistol", "bomb", "beer", "wine", "skull", "knife", "syringe", "pill", "dagger"]
HUNDRED = [f"{color} {thing}" for color in ("red", "old", "big", "wet", "odd", "new", "hot", "dry", "low", "tin")
           for thing in THINGS]  # fmt: skip
KEPT = ["apple", "a dog"]


@pytest.fixture(scope="module")
def pipe(tokenizer: Any) -> Any:
    return tiny_sd(tokenizer)


def make(method: type[Method], pipe: Any, concepts: Any, out: Path, **options: Any) -> Artifact:
    return method.make(host_for(pipe), concepts, out, progress=False, **{"preserve": KEPT, **options})


def content(artifact: Artifact) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A manifest without the time that it took, and the bytes of all files."""
    fields = artifact.manifest.model_dump()
    del fields["made"]["seconds"]
    return fields, {file.path: artifact.path(file.path).read_bytes() for file in artifact.manifest.files}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, pipe: Any) -> list[str]:
    """What the text encoder is asked."""
    asked: list[str] = []
    host = type(host_for(pipe))
    whole = host.encode

    def encode(self: Any, texts: Any, **options: Any) -> Encoded:
        asked.extend(texts)
        return whole(self, texts, **options)

    monkeypatch.setattr(host, "encode", encode)
    return asked


@pytest.fixture(scope="module")
def hundred(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make(UCE, pipe, HUNDRED, tmp_path_factory.mktemp("hundred"), name="hundred")


def test_every_one_of_a_hundred_is_guarded_and_nothing_else(pipe: Any, hundred: Artifact) -> None:
    """Gates of a policy with one guard, of all hundred, and pictures of some."""
    assert hundred.ref.endswith("/uce/hundred") and len(hundred.manifest.made["concepts"]) == 100
    asked = [f"a photo of a {HUNDRED[i]}" for i in (0, 41, 99)]
    rules = load_policy({"guards": [{"method": "uce", "artifact": str(hundred.folder)}]})
    assert concepts_of(rules) == HUNDRED
    bare, encoded = generate(pipe, [*asked, "a red apple"]), host_for(pipe).read(HUNDRED)
    with conceptguard.attach(pipe, rules) as session:
        got = generate(pipe, [*asked, "a red apple"])
        gates = session.receipt.acts[0].gates[4:]
        all_gates = session.gate_bank("unet", session.host.read)(encoded.embeds, encoded.ids)
    assert gates == [1, 1, 1, 0] and bool((all_gates == 1).all())
    assert torch.equal(got[3], bare[3]) and all(not torch.allclose(got[i], bare[i], atol=1e-4) for i in range(3))


@pytest.mark.slow
def test_one_of_a_hundred_is_withdrawn_to_the_last_bit(pipe: Any, hundred: Artifact, tmp_path: Path) -> None:
    fresh = make(UCE, pipe, [c for c in HUNDRED if c != HUNDRED[41]], tmp_path, name="hundred")
    assert content(UCE.withdraw(host_for(pipe), hundred, [HUNDRED[41]], progress=False)) == content(fresh)


@pytest.mark.parametrize("method", [UCE, TRCE, Nullspace, RECE])
def test_withdrawn_to_the_last_bit(method: Any, pipe: Any, tmp_path: Path, read: list[str]) -> None:
    """One in the middle, then the first and the last; nothing of the others is read again, save by RECE to validate."""
    whole = make(method, pipe, THINGS[:6], tmp_path / "whole", name="six")
    fresh = make(method, pipe, [THINGS[1], THINGS[3], THINGS[4]], tmp_path / "fresh", name="six")
    assert any(thing in text for text in read for thing in THINGS)
    read.clear()
    left = method.withdraw(host_for(pipe), whole, [THINGS[2]], progress=False)
    assert content(left) != content(fresh)
    left = method.withdraw(host_for(pipe), left, [THINGS[5], THINGS[0]], progress=False)
    assert content(left) == content(fresh)
    assert method is RECE or not any(thing in text for text in read for thing in THINGS)
    assert left.folder == whole.folder and THINGS[0] not in left.manifest.concept.prompts
    pieces = {path.name for path in left.folder.parent.glob(".six.pieces/*")}
    assert pieces == {path.name for path in fresh.folder.parent.glob(".six.pieces/*")}


def test_an_artifact_of_more_phrases_than_one_text_holds_acts_without_steering(pipe: Any, tmp_path: Path) -> None:
    """TRCE's second stage takes one text of them all."""
    concepts = [{"name": thing, "prompts": [f"{color} {thing}" for color in ("old", "big", "wet", "tin")]}
                for thing in THINGS]  # fmt: skip
    artifact = make(TRCE, pipe, concepts, tmp_path, templates=["{}"])
    rules = {"method": "trce", "artifact": str(artifact.folder)}
    bare = generate(pipe, ["a red apple", "a wet knife"], guidance_scale=1.0)
    with conceptguard.attach(pipe, {"guards": [rules]}):
        got = generate(pipe, ["a red apple", "a wet knife"], guidance_scale=1.0)
    assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1], atol=1e-4)
    with pytest.raises(PolicyError, match="the text encoder reads"):
        conceptguard.attach(pipe, {"guards": [{**rules, "scale": 1.0}]})


@pytest.mark.parametrize("method", [UCE, TRCE])
def test_each_keeps_its_own_replacement(method: type[Method], pipe: Any, tmp_path: Path) -> None:
    """In the same solve: what a layer makes of each last (or end) token is what it makes of its guide's."""
    concepts = [
        {"name": "beer", "prompts": ["beer"], "replacement": "milk"},
        {"name": "knife", "prompts": ["knife"], "replacement": "spoon"},
    ]
    options = {"tokens": "last", "lamb": 1e-6} if method is UCE else {"templates": ["{}"]}
    terms = terms_of(make(method, pipe, concepts, tmp_path, **options), pipe)
    states, place = host_for(pipe).encode(["beer", "milk", "knife", "spoon"]).embeds.double(), 1 + (method is TRCE)
    layers = host_for(pipe).layers()
    for name, (down, up, _) in terms.items():
        old = layers[name].weight.detach().double()
        new = old + up.double() @ down.double()
        for own, guide in ((0, 1), (2, 3)):
            way = (old @ (states[own, place] - states[guide, place])).norm()
            assert (new @ states[own, place] - old @ states[guide, place]).norm() < 0.1 * way


def test_interrupted_and_taken_up_again(pipe: Any, tmp_path: Path, read: list[str], monkeypatch: Any) -> None:
    """The same artifact, and what was read before is not read again."""
    fresh, host = make(UCE, pipe, THINGS, tmp_path / "fresh"), type(host_for(pipe))
    encode = host.encode

    def fails(self: Any, texts: Any, **options: Any) -> Encoded:
        if THINGS[5] in texts:
            raise KeyboardInterrupt
        return encode(self, texts, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(host, "encode", fails)
        make(UCE, pipe, THINGS, tmp_path / "again")
    read.clear()
    assert content(make(UCE, pipe, THINGS, tmp_path / "again")) == content(fresh)
    # Behind the rows of the rest the gates are measured, of all of them.
    assert read.index(THINGS[5]) < read.index(THINGS[0])


def test_a_damaged_piece_is_read_again(pipe: Any, tmp_path: Path) -> None:
    whole = make(UCE, pipe, THINGS[:3], tmp_path)
    before = content(whole)
    for path in tmp_path.rglob("*.piece"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    assert content(make(UCE, pipe, THINGS[:3], tmp_path)) == before


def test_a_full_disk_leaves_what_was_there(pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every write, of pieces and of the artifact; with room again it is made."""
    whole = make(UCE, pipe, THINGS[:3], tmp_path)
    before, sync, writes = content(whole), os.fsync, 0
    for full_at in (0, 3, 4):
        writes = 0

        def full(descriptor: int, at: int = full_at) -> None:
            nonlocal writes
            writes += 1
            if writes > at:
                raise OSError(errno.ENOSPC, "No space left on device")
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RegistryError, match="make room"):
            make(UCE, pipe, THINGS[3:6], tmp_path)
        monkeypatch.setattr(os, "fsync", sync)
        assert content(whole) == before and not list(tmp_path.rglob(".new-*"))
    assert make(UCE, pipe, THINGS[3:6], tmp_path).manifest.concept.prompts == THINGS[3:6]


@pytest.mark.parametrize("rows", [3, 40])
def test_rows_in_place_of_many_have_the_same_sums(rows: int) -> None:
    own, guide = torch.randn(2, rows, 8, generator=torch.Generator().manual_seed(0))
    pairs = Paired()
    for a, b in zip(own.split(7), guide.split(7)):
        pairs.add(a, b)
    few, guides = pairs.rows()
    assert len(few) == min(rows, 8)
    torch.testing.assert_close(few.T @ few, own.T @ own, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(few.T @ guides, own.T @ guide, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("concepts", "options", "says"),
    [
        ([], {}, "no concepts"),
        (["beer", "Beer"], {}, "two concepts are called 'beer' and 'Beer'"),
        (["beer", "knife"], {"preserve": ["a sharp knife"]}, "'a sharp knife' contains 'knife' of the concept 'knife'"),
        (["beer", {"name": "x", "prompts": ["knife"]}], {"preserve": ["Knife"]}, "contains 'knife' of the concept 'x'"),
        (["beer", {"name": "x", "prompts": [","]}], {}, "','"),
        ("beer", {"name": "drinks"}, "'drinks'.*several concepts"),
    ],
)
def test_bad_input(pipe: Any, tmp_path: Path, concepts: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(PolicyError, match=says) as error:
        make(UCE, pipe, concepts, tmp_path, **options)
    assert "\n" not in str(error.value) and not list(tmp_path.rglob("artifact.yaml"))


def test_what_cannot_be_withdrawn(pipe: Any, tmp_path: Path) -> None:
    two, one = make(UCE, pipe, ["beer", "knife"], tmp_path), make(UCE, pipe, "skull", tmp_path)
    for artifact, names, says in (
        (two, ["knive"], "no concept 'knive': did you mean 'knife'"),
        (two, ["beer", "knife"], "nothing would be left"),
        (one, ["skull"], "is of one concept"),
    ):
        with pytest.raises(PolicyError, match=says):
            UCE.withdraw(host_for(pipe), artifact, names)
    copy = Artifact(two.manifest, two.folder.parent / "0123abcd")
    with pytest.raises(PolicyError, match="a copy that belongs to another registry"):
        UCE.withdraw(host_for(pipe), copy, ["beer"])
    left = UCE.withdraw(host_for(pipe), two, ["beer"], tmp_path / "other", progress=False)
    assert left.folder == tmp_path / "other" / two.ref and two.folder.is_dir()
    assert left.manifest.concept.prompts == ["knife"] != two.manifest.concept.prompts


def test_a_method_for_one_concept_says_so(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="'spm' makes an artifact of one concept"):
        make(SPM, pipe, ["beer", "knife"], tmp_path)
