"""Kills `add` at every one of its steps at the file system, and says what loads afterwards: one JSON line for each.

python interrupted.py ROOT NEW STRIDE [REMOVE]     NEW is added to a registry that has another version of it
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import torch

from conceptguard.errors import ConceptGuardError
from conceptguard.registry import open_artifact
from conceptguard.registry.local import LocalSource

STEPS = {"open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
REF = "tiny/spm/cigarette"


def killed(root: Path, new: Path, step: int, remove: bool) -> bool:
    """Whether the process was killed, before its step of this number."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    count = 0

    def watch(event: str, args: tuple[object, ...]) -> None:
        nonlocal count
        if event in STEPS and (event != "open" or str(root) in str(args[0])):
            count += 1
            if count > step:
                os._exit(9)

    source, artifact = LocalSource(root), open_artifact(new)
    sys.addaudithook(watch)
    source.remove(REF) if remove else source.add(artifact)
    os._exit(0)


def loads(root: Path) -> str:
    """The version of what loads, with the value of its factors; or why nothing does."""
    try:
        found = LocalSource(root).find(REF)
        if found is None:
            return "nothing"
        artifact = LocalSource(root).load(REF)
        assert artifact.metadata()["prompts"] == "cigarette" and artifact.path(artifact.weights()[0]).is_file()
        values = {float(t.flatten()[0]) for k, t in artifact.tensors().items() if not k.endswith("alpha")}
        assert found.version == artifact.manifest.version and len(values) == 1
        return f"{artifact.manifest.version} {values.pop():g}"
    except (ConceptGuardError, OSError) as cause:
        return f"{type(cause).__name__}: {cause}"


def main() -> None:
    torch.set_num_threads(1)
    root, new, remove = Path(sys.argv[1]), Path(sys.argv[2]), len(sys.argv) > 4
    before = root.with_name("before")
    shutil.copytree(root, before)
    other = open_artifact(new.with_name("other"))
    for step in range(0, 1000, int(sys.argv[3])):
        shutil.rmtree(root)
        shutil.copytree(before, root)
        was_killed = killed(root, new, step, remove)
        what = loads(root)
        # The next writer, of something else, finishes what was left.
        LocalSource(root).add(other)
        left = sorted(
            str(p.relative_to(root)) for p in root.rglob("*") if p.name.startswith((".new-", ".next", ".busy"))
        )
        said = {entry.ref: entry.version for entry in LocalSource(root).entries()}.get(REF, "nothing")
        print(json.dumps({"step": step, "loads": what, "then": loads(root), "listed": said, "left": left}))
        if not was_killed:
            return
    raise SystemExit("never ended")


if __name__ == "__main__":
    main()
