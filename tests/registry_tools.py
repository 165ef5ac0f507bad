"""Small real artifacts and a small real web server for the registry's tests."""

from __future__ import annotations

import contextlib
import functools
import http.server
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from conceptguard.registry import Artifact, write_artifact


def fields(name: str = "cigarette", **changes: Any) -> dict[str, Any]:
    """Manifest fields of a small membrane."""
    whole: dict[str, Any] = {
        "method": "spm",
        "concept": {"name": name, "prompts": [name, f"a {name}"], "replacement": ""},
        "base": {"family": "tiny", "fingerprint": "arch:0123456789abcdef"},
        "licence": "CC0-1.0",
        "card": {"erased_after": 0.01, "command": "conceptguard eval"},
    }
    return {**whole, **changes}


def membrane(seed: float = 0.0) -> dict[str, torch.Tensor]:
    """Tensors of one layer in SPM's keys; `seed` fills them, so that versions can be told apart."""
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    down, up = torch.full((1, 8), float(seed)), torch.full((4, 1), float(seed))
    return {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(1.0)}


def make(folder: Path, name: str = "cigarette", seed: float = 0.0, **changes: Any) -> Artifact:
    """A small membrane in `folder`."""
    said = {"prompts": name, "rank": "1", "alpha": "1.0"}
    return write_artifact(folder, fields(name, **changes), membrane(seed), metadata=said)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder on 127.0.0.1; gives its address and the list of paths asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def uploaded(folder: Path) -> str:
    """The address of a copy of a folder's regular files on fsspec's in-memory file system."""
    import fsspec

    files = fsspec.filesystem("memory")
    address = f"/{uuid.uuid4().hex}"
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files.pipe(f"{address}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return f"memory:/{address}"
