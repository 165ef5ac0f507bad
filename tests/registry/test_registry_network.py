"""Servers that are slow, that send elsewhere, and that have much to list."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registry_tools import make, served

from conceptguard.errors import RegistryError
from conceptguard.registry import Registry, fetch, index
from conceptguard.registry.fetch import Unreachable
from conceptguard.registry.index import entry_of, index_bytes, parse_index
from conceptguard.registry.local import LocalSource
from conceptguard.registry.remote import RemoteSource


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket, str], None]) -> Iterator[str]:
    """A server that does with each connection, and the path asked for, what it is told."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    def one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            answer(connection, connection.recv(65536).split(b" ")[1].decode())

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.close()


def trickle(data: bytes, at_once: int, seconds: float) -> Callable[[socket.socket, str], None]:
    """So many bytes at once, then one every so often."""

    def answer(connection: socket.socket, path: str) -> None:
        connection.sendall(data[:at_once])
        for byte in data[at_once:]:
            time.sleep(seconds)
            connection.sendall(bytes([byte]))

    return answer


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(("data", "at_once"), [(HEAD + b" " * 400, 45), (HEAD, 0), (ENDLESS + b" " * 400, 30)])
def test_one_byte_at_a_time_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, at_once: int
) -> None:
    """In the body, in the head, and in a body without a length, which looks whole wherever it stops."""
    monkeypatch.setattr(fetch, "GRACE_SECONDS", 0.6)
    with answering(trickle(data, at_once, 0.1)) as address:
        started = time.monotonic()
        with pytest.raises(RegistryError, match=r"too slow \(\d+ bytes in \d s\)"):
            RemoteSource(address, tmp_path).entries()
        assert 0.5 < time.monotonic() - started < 5


def test_slow_is_not_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who keeps the pace may take longer than the grace."""
    monkeypatch.setattr(fetch, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr(fetch, "BYTES_PER_SECOND", 100)
    before = threading.active_count()
    with answering(trickle(HEAD + b"x" * 400, len(HEAD) + 350, 0.01)) as address:
        assert fetch.fetch(address, 1000) == b"x" * 400
    assert threading.active_count() < before + 20


def test_an_answer_cut_short_is_none(tmp_path: Path) -> None:
    with (
        answering(lambda connection, path: connection.sendall(HEAD + b"x" * 100)) as address,
        pytest.raises(Unreachable, match="ended 300 bytes early"),
    ):
        fetch.fetch(address, 1000)


def sent_to(elsewhere: str, code: int = 302) -> Callable[[socket.socket, str], None]:
    def answer(connection: socket.socket, path: str) -> None:
        target = elsewhere.replace("PATH", path)
        connection.sendall(f"HTTP/1.1 {code} X\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())

    return answer


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_another_host_is_not_asked(tmp_path: Path, code: int) -> None:
    LocalSource(tmp_path / "r").add(make(tmp_path / "a"))
    with served(tmp_path / "r") as (other, asked):
        port = other.rsplit(":", 1)[1]
        for elsewhere in (f"{other}PATH", f"http://localhost:{port}PATH", f"//127.0.0.1:{port}PATH"):
            with answering(sent_to(elsewhere, code)) as address:
                with pytest.raises(RegistryError, match=r"redirected to another host.*give that address") as caught:
                    RemoteSource(address, tmp_path / "cache").entries()
                assert not isinstance(caught.value, Unreachable), "an older index is no answer to that"
        assert asked == []


def test_the_same_host_may_send_on(tmp_path: Path) -> None:
    def answer(connection: socket.socket, path: str) -> None:
        if path == "/old":
            connection.sendall(b"HTTP/1.1 302 X\r\nLocation: /new\r\nContent-Length: 0\r\n\r\n")
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + path.encode())

    with answering(answer) as address:
        assert fetch.fetch(f"{address}/old", 10) == b"/new"


def many(tmp_path: Path, count: int) -> list[index.Entry]:
    make(tmp_path / "a")
    entry = entry_of(tmp_path / "a")
    return [dataclasses.replace(entry, ref=f"tiny/spm/c{i}", name=f"c{i}") for i in range(count)]


def test_twenty_thousand_entries(tmp_path: Path) -> None:
    """A second of computing for what took seven: write, read, find."""
    entries = many(tmp_path, 20_000)
    (tmp_path / "r").mkdir()
    started = time.process_time()
    (tmp_path / "r" / "index.json").write_bytes(index_bytes(entries))
    with served(tmp_path / "r") as (address, asked):
        source = RemoteSource(address, tmp_path / "cache")
        assert Registry([source]).find("tiny/spm/c19999").name == "c19999" and asked == ["/index.json"]
        assert all(source.find(entry.ref) is not None for entry in entries)
    assert time.process_time() - started < 3


def test_what_is_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = many(tmp_path, 45_000)
    data = index_bytes(entries)
    assert len(data) > 16 * 1024 * 1024 and len(parse_index(data, "")) == 45_000
    monkeypatch.setattr(index, "MAX_INDEX", 10_000)
    with pytest.raises(RegistryError, match="split the registry"):
        index_bytes(entries[:100])
