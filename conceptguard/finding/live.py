"""The page of what was found, served to this machine alone, so that what a person corrects on it is done at once."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

from ..errors import ConceptGuardError
from .corrections import Corrections, corrections_of

MOST_BYTES = 1_000_000  # of corrections


class Live:
    """A server on this machine's own address, under a path that nobody guesses: other pages in the browser, and other
    people's programs, cannot correct anything.

    correct: does what was said, and tells it. port: 0 is any that is free. Raises ConceptGuardError for one that
    is not.
    """

    def __init__(self, page: str, correct: Callable[[Corrections], str], port: int = 0) -> None:
        path, one_at_a_time = f"/{secrets.token_urlsafe(24)}/", Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == path:
                    self._answer(200, page, "text/html")
                else:
                    self._answer(404, "nothing here: use the address that was printed")

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                if self.path != f"{path}corrections" or length > MOST_BYTES:
                    self._answer(404, "nothing here: use the address that was printed")
                    return
                try:
                    said = corrections_of(json.loads(self.rfile.read(length)), "corrections")
                    with one_at_a_time:
                        told = correct(said)
                except (ConceptGuardError, ValueError) as error:
                    self._answer(400, str(error))
                else:
                    self._answer(200, told)

            def _answer(self, status: int, text: str, kind: str = "text/plain") -> None:
                data = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", f"{kind}; charset=utf-8")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """What was asked is nobody's business."""

        try:
            self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise ConceptGuardError(f"port {port}: {error.strerror}: give another one, or none") from None
        self.url = f"http://127.0.0.1:{self.server.server_port}{path}"

    def run(self) -> None:
        """Until ctrl-C."""
        try:
            self.server.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            self.server.server_close()
