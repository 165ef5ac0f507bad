"""Several writers and readers on one registry: everybody sees whole artifacts, nobody's entry is lost."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import torch
from registry_tools import make

from conceptguard.registry import Registry
from conceptguard.registry.local import LocalSource


def _write(root: str, number: int) -> None:
    torch.set_num_threads(1)
    source = LocalSource(root)
    for turn in range(3):
        source.add(make(Path(root).parent / "made" / f"{number}", f"mine-{number}", turn))
        # All of them fight for this one as well.
        source.add(make(Path(root).parent / "made" / f"shared-{number}", "shared", 10 * number + turn))


def _read(root: str, results: Any) -> None:
    torch.set_num_threads(1)
    seen = 0
    try:
        while seen < 30:
            tensors = Registry([root]).load("tiny/spm/shared").tensors()
            values = {float(t.flatten()[0]) for k, t in tensors.items() if not k.endswith("alpha")}
            assert len(values) == 1, f"factors of two versions: {values}"
            assert all(entry.method == "spm" for entry in Registry([root]).entries())
            seen += 1
        results.put("")
    except Exception as cause:
        results.put(f"{type(cause).__name__}: {cause}")


def test_writers_and_readers(tmp_path: Path) -> None:
    root = str(tmp_path / "r")
    LocalSource(root).add(make(tmp_path / "made" / "first", "shared", 99))
    # Processes of their own, which share no lock and no open file; what they import is imported once for all three.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "conceptguard.registry.local", "conceptguard.registry.write"])
    results = context.Queue()
    writers = [context.Process(target=_write, args=(root, number)) for number in range(2)]
    reader = context.Process(target=_read, args=(root, results))
    for process in (*writers, reader):
        process.start()
    said = results.get(timeout=240)
    for process in (*writers, reader):
        process.join(60)
        assert process.exitcode == 0
    assert said == ""
    registry = Registry([root])
    assert [entry.name for entry in registry.entries()] == ["mine-0", "mine-1", "shared"]
    assert all(row["ok"] for row in registry.verify())
    assert not list(Path(root).rglob(".new-*"))
