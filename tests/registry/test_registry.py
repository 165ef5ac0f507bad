"""Artifacts and local registries: what is written comes back, and nothing that was altered is loaded."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from registry_tools import fields, make, membrane

from conceptguard.errors import ArtifactError, ConceptGuardError, RegistryError
from conceptguard.registry import Registry, open_artifact, rebuild_index, write_artifact
from conceptguard.registry.fingerprint import fingerprint
from conceptguard.registry.local import LocalSource
from conceptguard.registry.settings import _split


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_written_artifact_comes_back(tmp_path: Path) -> None:
    picture = tmp_path / "sheet.png"
    picture.write_bytes(b"\x89PNG not looked into")
    made = write_artifact(tmp_path / "a", fields(), membrane(2), metadata={"prompts": "cigarette"}, pictures=[picture])
    again = open_artifact(tmp_path / "a")
    assert again.manifest == made.manifest and again.ref == "tiny/spm/cigarette"
    assert same(again.tensors(), membrane(2)) and again.metadata() == {"prompts": "cigarette"}
    assert again.picture is not None and again.picture.read_bytes() == picture.read_bytes()
    assert again.verify() == sum(file.size for file in again.manifest.files)


@pytest.mark.parametrize(
    ("dtype", "mixed"),
    [
        (torch.float32, False),
        (torch.float16, False),
        (torch.bfloat16, False),
        (torch.float16, True),
        (torch.int8, False),
    ],
)
def test_every_dtype_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype, mixed: bool) -> None:
    tensors = {"a": torch.arange(6).to(dtype).view(2, 3), "empty": torch.zeros(0, 4, dtype=dtype)}
    tensors["scalar"] = torch.tensor(3).to(torch.float32 if mixed else dtype)
    artifact = write_artifact(tmp_path, fields(), tensors)
    back = artifact.tensors()
    assert same(back, tensors) and all(back[k].dtype == tensors[k].dtype for k in tensors)
    back["a"].zero_()
    assert same(artifact.tensors(), tensors), "tensors of two calls must not share memory"


def spoil_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_bit, "altered"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "truncated"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "longer"),
        (lambda path: path.unlink(), "missing"),
    ],
)
def test_altered_weights_are_refused(tmp_path: Path, spoil: object, says: str) -> None:
    artifact = make(tmp_path / "a")
    spoil(tmp_path / "a" / "cigarette.safetensors")  # type: ignore[operator]
    for use in (artifact.tensors, artifact.verify):
        with pytest.raises(ArtifactError, match=says) as error:
            use()
        assert "\n" not in str(error.value)


def test_altered_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sheet.png").write_bytes(b"a picture")
    artifact = write_artifact(tmp_path / "a", fields(), membrane(), pictures=[tmp_path / "sheet.png"])
    assert artifact.path("sheet.png").read_bytes() == b"a picture"
    spoil_bit(tmp_path / "a" / "sheet.png")
    for use in (lambda: artifact.path("sheet.png"), artifact.verify):
        with pytest.raises(ArtifactError, match="altered"):
            use()
    with pytest.raises(ArtifactError, match="no file"):
        artifact.path("other.png")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_not_finite_is_refused_by_name(tmp_path: Path, bad: float, dtype: torch.dtype) -> None:
    import safetensors.torch

    from conceptguard.registry.write import write_files

    spoiled = {"fine": torch.ones(3, dtype=dtype), "spoiled": torch.tensor([1.0, bad], dtype=dtype)}
    with pytest.raises(ArtifactError, match="'spoiled'"):
        write_artifact(tmp_path / "a", fields(), spoiled)
    for extra in ({}, {"alpha": torch.tensor(1.0, dtype=torch.float64)}):
        data = safetensors.torch.save({**spoiled, **extra})
        with pytest.raises(ArtifactError, match="'spoiled'"):
            write_files(tmp_path / "b", fields(), {"w.safetensors": data}).tensors()


def test_add_find_load_remove(tmp_path: Path) -> None:
    registry = Registry([tmp_path / "one", tmp_path / "two"])
    registry.add(make(tmp_path / "a", "cigarette", 1))
    registry.add(make(tmp_path / "b", "wine", 2), into=tmp_path / "two")
    assert [entry.ref for entry in registry.entries()] == ["tiny/spm/cigarette", "tiny/spm/wine"]
    entry = registry.find("wine")
    assert (entry.method, entry.base, entry.concept, entry.source) == ("spm", "tiny", "wine", str(tmp_path / "two"))
    assert entry.row()["erased_after"] == 0.01
    assert same(registry.load("spm/cigarette").tensors(), membrane(1))
    assert all(row["ok"] for row in registry.verify()) and len(registry.verify()) == 2
    assert registry.remove("cigarette").ref == "tiny/spm/cigarette"
    assert [entry.ref for entry in registry.entries()] == ["tiny/spm/wine"]
    with pytest.raises(RegistryError, match="did you mean tiny/spm/wine"):
        registry.load("tiny/spm/wien")


def test_first_source_counts(tmp_path: Path) -> None:
    for number, name in enumerate(("one", "two")):
        LocalSource(tmp_path / name).add(make(tmp_path / "made" / name, seed=number))
    assert same(Registry([tmp_path / "one", tmp_path / "two"]).load("cigarette").tensors(), membrane(0))
    assert same(Registry([tmp_path / "two", tmp_path / "one"]).load("cigarette").tensors(), membrane(1))
    assert len(Registry([tmp_path / "one", tmp_path / "two"]).entries()) == 1


def test_short_reference_must_be_unmistakable(tmp_path: Path) -> None:
    registry = Registry([tmp_path / "r"])
    registry.add(make(tmp_path / "a"))
    registry.add(make(tmp_path / "b", method="uce"))
    with pytest.raises(RegistryError, match="fits several"):
        registry.find("cigarette")
    assert registry.find("uce/cigarette").method == "uce"


def test_shipped_registry_is_not_written_to(tmp_path: Path) -> None:
    source = LocalSource(tmp_path / "shipped")
    source.add(make(tmp_path / "a"))
    registry = Registry([LocalSource(tmp_path / "shipped", writable=False), tmp_path / "mine"])
    with pytest.raises(RegistryError, match="cannot be written"):
        registry.remove("cigarette")
    registry.add(make(tmp_path / "b", "wine"))
    assert (tmp_path / "mine" / "tiny" / "spm" / "wine").is_dir()
    assert not (tmp_path / "shipped" / "tiny" / "spm" / "wine").exists()


def test_load_takes_paths(tmp_path: Path) -> None:
    made = make(tmp_path / "a", seed=3)
    registry = Registry([tmp_path / "empty"])
    for path in (tmp_path / "a", str(tmp_path / "a"), tmp_path / "a" / "artifact.yaml"):
        assert registry.load(path).manifest == made.manifest
    loose = registry.load(tmp_path / "a" / "cigarette.safetensors")
    assert loose.manifest.method == "spm" and loose.manifest.concept.prompts == ["cigarette"]
    assert same(loose.tensors(), membrane(3))
    with pytest.raises(ArtifactError, match="no such file"):
        registry.load(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["a.pt", "a.ckpt", "a.bin", "a.pth", "a.safetensors"])
def test_pickles_are_never_opened(tmp_path: Path, name: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"a": Trap()}, tmp_path / name)
    with pytest.raises(ArtifactError, match="a pickle, which can run code"):
        Registry([tmp_path]).load(tmp_path / name)
    with pytest.raises(ArtifactError, match="a pickle, which can run code"):
        write_artifact(tmp_path / "x", fields(), membrane(), filename="weights.pt")
    assert not (tmp_path / "sprung").exists()


def test_replacing_takes_old_files_away(tmp_path: Path) -> None:
    write_artifact(tmp_path, fields(), membrane(1), filename="old.safetensors")
    artifact = write_artifact(tmp_path, fields(), membrane(2), filename="new.safetensors")
    assert not (tmp_path / "old.safetensors").exists() and same(artifact.tensors(), membrane(2))


def test_verify_sees_what_index_and_disk_disagree_on(tmp_path: Path) -> None:
    source = LocalSource(tmp_path / "r")
    for name in ("cigarette", "wine", "beer"):
        source.add(make(tmp_path / "made" / name, name))
    make(tmp_path / "r" / "tiny" / "spm" / "skull", "skull")
    shutil.rmtree(tmp_path / "r" / "tiny" / "spm" / "wine")
    make(tmp_path / "r" / "tiny" / "spm" / "beer", "beer", seed=9)
    rows = {row["ref"]: row for row in Registry([source]).verify()}
    assert {ref for ref, row in rows.items() if row["ok"]} == {"tiny/spm/cigarette"}
    assert "not on disk" in rows["tiny/spm/wine"]["why"] and "not in the index" in rows["tiny/spm/skull"]["why"]
    assert "something else" in rows["tiny/spm/beer"]["why"]
    rebuild_index(tmp_path / "r")
    assert all(row["ok"] for row in Registry([source]).verify())


def test_folder_that_speaks_of_another_is_refused(tmp_path: Path) -> None:
    LocalSource(tmp_path / "r").add(make(tmp_path / "a"))
    shutil.copytree(tmp_path / "r/tiny/spm/cigarette", tmp_path / "r/tiny/spm/harmless")
    with pytest.raises(ConceptGuardError, match="speaks of"):
        LocalSource(tmp_path / "r").load("tiny/spm/harmless")
    with pytest.raises(RegistryError, match="speaks of"):
        rebuild_index(tmp_path / "r")


def test_manifest_errors_name_line_and_nearest_word(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "artifact.yaml"
    good = path.read_text()
    for old, new, says in [
        ("licence:", "license:", r"line 18: license: unknown key; did you mean 'licence'"),
        ("  replacement:", "  replacment:", r"line \d+: concept.replacment: .*'replacement'"),
        ("schema: 1", "schema: 2", "newer conceptguard.*upgrade"),
        ("method: spm", "method: 3", "line 4: method"),
        ("prompts:\n  - cigarette\n  - a cigarette", "prompts: []", "line 7: concept.prompts"),
        ("sha256: ", "sha256: X", "sha256"),
        ("size: ", "size: -", "size"),
        ("path: cigarette", "path: ../cigarette", r"line \d+: files.0.path: .*not a plain relative path"),
    ]:
        assert old in good
        path.write_text(good.replace(old, new))
        with pytest.raises(ArtifactError, match=says):
            open_artifact(tmp_path)


def test_fingerprint_tells_architectures_not_siblings() -> None:
    shapes = {
        "unet.down_blocks.0.attentions.0.proj_in": (8, 8, 1, 1),
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (8, 16),
        "unet.conv_in": (8, 4, 3, 3),
        "text_encoder.encoder.layers.0.self_attn.q_proj": (16, 16),
    }
    plain = fingerprint(shapes)
    assert plain == "arch:27260f73ae352612", "changing this makes every published artifact a stranger"
    weights = {f"{name}.weight": shape for name, shape in reversed(shapes.items())}
    weights |= {f"{name}.bias": shape[:1] for name, shape in shapes.items()}
    assert fingerprint(weights) == plain
    wrapped = {name.replace("to_k", "to_k.base_layer"): shape for name, shape in shapes.items()}
    wrapped["unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.default"] = (4, 16)
    assert fingerprint(wrapped) == plain
    inpainting = {**shapes, "unet.conv_in": (8, 9, 3, 3)}
    assert fingerprint(inpainting) == plain, "a sibling with another input layer keeps its artifacts"
    assert fingerprint({**shapes, "unet.down_blocks.0.attentions.0.proj_in": (8, 8)}) != plain
    wider = {**shapes, "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (8, 32)}
    assert fingerprint(wider) != plain
    with pytest.raises(RegistryError):
        fingerprint({})


def test_environment_lists_sources() -> None:
    assert _split("") == []
    parts = ["/a", "https://example.org:8080/r", "hf://owner/name"]
    assert _split(os.pathsep.join(parts)) == parts


def test_index_is_plain_json(tmp_path: Path) -> None:
    LocalSource(tmp_path / "r").add(make(tmp_path / "a"))
    index = json.loads((tmp_path / "r" / "index.json").read_text())
    assert index["schema"] == 1 and index["entries"][0]["ref"] == "tiny/spm/cigarette"
    assert "source" not in index["entries"][0]
