"""Promise 8: nothing runs from a file, and a file that is not what its manifest says is never used."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ConceptGuardError
from ..registry import Artifact, default_registry, write_artifact
from .bench import Bench
from .case import ContractBroken, NotApplicable, demand


def _artifact(bench: Bench) -> Artifact:
    ref = bench.case.guard.get("artifact")
    artifact = default_registry().load(ref) if ref else None
    if artifact is None or not artifact.weights():
        raise NotApplicable("the guard has no artifact with weights")
    return artifact


def _refused(bench: Bench, ref: Path, what: str) -> str:
    """Attach with another artifact in the guard's place and demand an error of ours; gives its text."""
    try:
        with bench.attached({**bench.case.guard, "artifact": str(ref)}):
            bench.generate(bench.pipe, [bench.case.opens])
    except ConceptGuardError as error:
        return str(error)
    except Exception as error:
        raise ContractBroken(f"{what}: {type(error).__name__} instead of an error that says what to do") from error
    raise ContractBroken(f"{what}: used all the same, or ignored: the picture leaves as if it were guarded")


def _altered(bench: Bench, change: Callable[[bytes], bytes], what: str, *, listed: bool = False) -> str:
    """The same with changed bytes; ``listed`` writes their hash and size into the manifest, as a forger would."""
    artifact = _artifact(bench)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "artifact"
        shutil.copytree(artifact.folder, copy)
        weights = copy / artifact.weights()[0]
        data = change(weights.read_bytes())
        weights.write_bytes(data)
        if listed:
            files = [
                {"path": f.path, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
                if f.path == artifact.weights()[0] else f.model_dump()
                for f in artifact.manifest.files
            ]  # fmt: skip
            from ..registry.manifest import bound, check_manifest

            fields = artifact.manifest.model_dump(by_alias=True, exclude={"files", "binds"})
            (copy / "artifact.yaml").write_text(bound(check_manifest({**fields, "files": files}, "")).to_yaml())
        return _refused(bench, copy, what)


def truncated_file_refused(bench: Bench) -> None:
    """Half a file."""
    _altered(bench, lambda data: data[: len(data) // 2], "a truncated weight file")
    _altered(bench, lambda data: data[: len(data) // 2], "a truncated weight file with a fitting manifest", listed=True)


def altered_file_refused(bench: Bench) -> None:
    """One bit of the last tensor."""
    _altered(bench, lambda data: data[:-1] + bytes([data[-1] ^ 1]), "an altered weight file")


class _Payload:
    def __init__(self, mark: str):
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


def pickle_refused(bench: Bench) -> None:
    """A pickle in the weights' place is not opened, whatever the manifest says of it."""
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder) / "ran"
        data = pickle.dumps(_Payload(str(mark)))
        _altered(bench, lambda _: data, "a pickle in place of the weights", listed=True)
        demand(not mark.exists(), "a pickle in place of the weights was run")
        plain = Path(folder) / "weights.pt"
        plain.write_bytes(data)
        _refused(bench, plain, "a .pt file")
        demand(not mark.exists(), "a .pt file was run")


def not_finite_refused(bench: Bench) -> None:
    """NaN where a weight should be: the last two bytes of an IEEE number, all ones, in fp32, fp16 and bf16 alike."""
    _altered(bench, lambda data: data[:-2] + b"\xff\xff", "NaN in the weights", listed=True)


def other_base_refused(bench: Bench) -> None:
    """An artifact of another architecture."""
    artifact = _artifact(bench)
    with tempfile.TemporaryDirectory() as folder:
        fields = artifact.manifest.model_dump(by_alias=True, exclude={"files"})
        fields["base"] = {"family": "other", "fingerprint": "arch:0123456789abcdef"}
        copy = Path(folder) / "artifact"
        write_artifact(copy, fields, artifact.tensors(), metadata=artifact.metadata())
        text = _refused(bench, copy, "an artifact of another base")
        demand("base" in text, f"the error does not say that the base is another: {text}")
