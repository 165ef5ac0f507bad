"""What the page asks the server: whether the pack works, and what the registry has."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiohttp import web
from server import PromptServer

_status: dict[str, Any] = {"error": None, "enforced": None}


def tell_status(error: str | None = None, enforced: str | None = None) -> None:
    """Serve ``GET /conceptguard/status``: {error, enforced}. enforced: the name of the operator's policy."""
    _status.update(error=error, enforced=enforced)
    PromptServer.instance.routes.get("/conceptguard/status")(_get_status)


async def _get_status(request: web.Request) -> web.Response:
    return web.json_response(_status)


def serve_registry() -> None:
    """Serve ``GET /conceptguard/registry``: {artifacts, policies, methods}, or {error} with status 500, and ``GET
    /conceptguard/card?ref=``: a picture of what an artifact does; 404 where there is none."""
    PromptServer.instance.routes.get("/conceptguard/registry")(_get_registry)
    PromptServer.instance.routes.get("/conceptguard/card")(_get_card)


async def _get_registry(request: web.Request) -> web.Response:
    from conceptguard.errors import ConceptGuardError

    from . import choices

    def look() -> dict[str, Any]:
        policies = list(choices.policies())
        return {"artifacts": choices.artifacts(), "policies": policies, "methods": choices.methods()}

    try:
        return web.json_response(await asyncio.to_thread(look))  # a registry may be far away: the server goes on
    except ConceptGuardError as error:
        return web.json_response({"error": str(error)}, status=500)


async def _get_card(request: web.Request) -> web.StreamResponse:
    from conceptguard.errors import ConceptGuardError

    from .choices import card

    try:
        path = await asyncio.to_thread(card, request.query.get("ref", ""))
    except ConceptGuardError as error:
        logging.warning("ConceptGuard: a picture is not shown: %s", error)
        path = None
    return web.FileResponse(path) if path else web.Response(status=404)
