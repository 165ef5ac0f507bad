"""A ComfyUI server in a process of its own, driven over HTTP and WebSocket as a browser would."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import struct
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from core import HERE, core, environment

START_S = 120


class Socket:
    """As much of a WebSocket client as is needed to listen: text messages, binary ones as ("binary", bytes)."""

    def __init__(self, port: int, path: str):
        self.heard: list[str] = []  # types of the messages so far
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._file = self._socket.makefile("rb")
        while self._file.readline().strip():
            pass

    def receive(self) -> tuple[str, Any]:
        """The next message: (type, data)."""
        whole, kind = b"", 0
        while True:
            first, second = self._file.read(2)
            length = second & 127
            if length == 126:
                length = struct.unpack(">H", self._file.read(2))[0]
            elif length == 127:
                length = struct.unpack(">Q", self._file.read(8))[0]
            whole += self._file.read(length)
            kind = first & 15 or kind
            if kind >= 8:
                whole, kind = b"", 0
            elif first & 128:
                break
        if kind == 2:
            self.heard.append("binary")
            return "binary", whole
        message = json.loads(whole)
        self.heard.append(message["type"])
        return message["type"], message["data"]

    def close(self) -> None:
        self._socket.close()


class Client:
    """One browser's worth of a server."""

    def __init__(self, port: int):
        self.port, self.id = port, uuid.uuid4().hex
        self.socket = Socket(port, f"/ws?clientId={self.id}")

    def get(self, path: str, **query: Any) -> Any:
        """JSON, or bytes where it is none."""
        return _open(Request(f"http://127.0.0.1:{self.port}{path}?{urlencode(query)}"))

    def post(self, path: str, data: Any) -> Any:
        """JSON; on an error status the answer's own."""
        body = json.dumps(data).encode()
        return _open(Request(f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": "application/json"}))

    def upload(self, name: str, png: bytes, folder: str) -> Any:
        """A picture into a folder of ComfyUI's input."""
        fields = [("image", f'; filename="{name}"', png), ("subfolder", "", folder.encode())]
        parts = [b"--it\r\nContent-Disposition: form-data; name=\"%b\"%b\r\n\r\n%b\r\n"
                 % (field.encode(), more.encode(), value) for field, more, value in fields]  # fmt: skip
        kind = {"Content-Type": "multipart/form-data; boundary=it"}
        return _open(Request(f"http://127.0.0.1:{self.port}/upload/image", b"".join([*parts, b"--it--\r\n"]), kind))

    def queue(self, graph: dict[str, Any], **more: Any) -> Any:
        """Post a prompt; the answer, with ``prompt_id`` where it was accepted."""
        return self.post("/prompt", {"prompt": graph, "client_id": self.id, **more})

    def run(self, graph: dict[str, Any]) -> Run:
        """Queue a prompt and wait for its end."""
        answer = self.queue(graph)
        return self.wait(answer["prompt_id"]) if "prompt_id" in answer else Run(answer, {}, [])

    def wait(self, prompt: str) -> Run:
        """Listen until a prompt has ended."""
        events = []
        while True:
            kind, data = self.socket.receive()
            if kind == "binary":
                continue
            events.append((kind, data))
            if kind == "executing" and data.get("node") is None and data.get("prompt_id") == prompt:
                break
            if kind in ("execution_error", "execution_interrupted") and data.get("prompt_id") == prompt:
                break
        for _ in range(200):
            if history := self.get(f"/history/{prompt}").get(prompt):
                return Run({"prompt_id": prompt}, history, events)
            time.sleep(0.02)
        raise AssertionError("a prompt ended and is not in the history")


class Run:
    """One prompt that was accepted and ran, or was not. events: (type, data) in order."""

    def __init__(self, answer: Any, history: dict[str, Any], events: list[tuple[str, Any]]):
        self.answer, self.history, self.events = answer, history, events

    @property
    def ok(self) -> bool:
        return self.history.get("status", {}).get("status_str") == "success"

    @property
    def error(self) -> str:
        """What the user reads: of a node that failed, or of a prompt that was not accepted."""
        for kind, data in self.events:
            if kind == "execution_error":
                return str(data["exception_message"])
        return "" if self.ok else json.dumps(self.answer)

    def texts(self, node: str) -> list[str]:
        return list(self.history["outputs"].get(node, {}).get("text", ()))

    def images(self, node: str) -> list[dict[str, Any]]:
        return list(self.history["outputs"].get(node, {}).get("images", ()))

    def told(self, event: str) -> list[dict[str, Any]]:
        return [data for kind, data in self.events if kind == event]


def pixels(client: Client, image: dict[str, Any]) -> Any:
    """An image of a server as numbers, [height, width, 3]."""
    import io

    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(client.get("/view", **image))).convert("RGB")).astype(int)


def install(folder: Path) -> None:
    """Put the pack into a base directory, as a user does."""
    from conceptguard.cli import run

    (folder / "custom_nodes").mkdir(parents=True, exist_ok=True)
    assert run(["comfyui", "install", str(folder)]) == 0


@contextmanager
def serving(folder: Path, *arguments: str, **variables: str) -> Iterator[int]:
    """A server whose models, nodes and outputs are in ``folder``; gives its port. Raises Unavailable."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "front").mkdir(parents=True, exist_ok=True)
    command = [
        str(environment()), str(HERE / "serve.py"), str(core()), "--cpu", "--listen", "127.0.0.1", "--port", str(port),
        "--base-directory", str(folder), "--disable-api-nodes", *arguments,
    ]  # fmt: skip
    if "--front-end-version" not in arguments and not _frontend():
        command += ["--front-end-root", str(folder / "front")]
    log = (folder / "server.log").open("w")
    around = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=around)
    try:
        _wait_until_ready(port, process, folder / "server.log")
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        log.close()


def _frontend() -> bool:
    done = subprocess.run([environment(), "-c", "import comfyui_frontend_package"], capture_output=True)
    return done.returncode == 0


def _wait_until_ready(port: int, process: Any, log: Path) -> None:
    for _ in range(START_S * 5):
        if process.poll() is not None:
            raise AssertionError(f"the server ended while starting:\n{log.read_text()[-3000:]}")
        with suppress(OSError):
            urlopen(f"http://127.0.0.1:{port}/system_stats", timeout=5).close()
            return
        time.sleep(0.2)
    raise AssertionError(f"the server was not ready after {START_S} s:\n{log.read_text()[-3000:]}")


def _open(request: Request) -> Any:
    try:
        with urlopen(request, timeout=120) as answer:
            body, kind = answer.read(), answer.headers.get("Content-Type", "")
    except HTTPError as error:
        body, kind = error.read(), error.headers.get("Content-Type", "")
    if kind.startswith("application/json"):
        return json.loads(body)
    return body
