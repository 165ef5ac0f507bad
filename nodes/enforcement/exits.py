"""What leaves the server besides the files of output nodes: messages to pages, and its log."""

from __future__ import annotations

import logging
from functools import wraps
from typing import Any

from aiohttp import web
from server import PromptServer

# Of the core, and ours: they tell what runs, how far it is, and what an output node was allowed to show. Previews of
# half-drawn pictures, texts of nodes and messages of other packs are none of them.
TOLD = {
    "status", "progress", "progress_state", "executing", "executed", "execution_start", "execution_cached",
    "execution_success", "execution_error", "execution_interrupted", "conceptguard.receipt", "conceptguard.report",
}  # fmt: skip
LOGS = ("/internal/logs", "/api/internal/logs")


def close() -> None:
    """From now on, for every page: nothing else is sent, and nobody reads the log, where nodes print what they like."""
    send = PromptServer.send_sync

    @wraps(send)
    def send_told(self: Any, event: Any, data: Any, sid: Any = None) -> None:
        if event in TOLD:
            send(self, event, data, sid)
        else:
            logging.debug("ConceptGuard: a message %r was not sent", event)

    PromptServer.send_sync = send_told
    PromptServer.instance.app.middlewares.append(_without_log)


@web.middleware
async def _without_log(request: web.Request, handler: Any) -> web.StreamResponse:
    if request.path.rstrip("/").startswith(LOGS):
        return web.json_response({"error": "this server's policy keeps its log to its operator"}, status=403)
    response: web.StreamResponse = await handler(request)
    return response
