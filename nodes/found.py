"""What Find Concepts found, for the sidebar: its pages, and what a person corrects on them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any

from aiohttp import web
from server import PromptServer

from conceptguard.errors import ConceptGuardError
from conceptguard.finding.corrections import corrections_of
from conceptguard.finding.live import MOST_BYTES
from conceptguard.finding.looked import Looked

MOST = 8  # pages, whose pictures are in memory
_kept: OrderedDict[str, Kept] = OrderedDict()
_one_at_a_time = Lock()


@dataclass(frozen=True)
class Kept:
    """A search by its name, what came of it, and its page."""

    name: str
    looked: Looked
    page: str

    def row(self) -> dict[str, Any]:
        """For the sidebar."""
        concepts = [one.name for one in self.looked.found.concepts]
        return {"name": self.name, "finder": self.looked.search.label, "concepts": concepts}


def keep(one: Kept) -> None:
    """In place of what had its name; the oldest goes where there are too many."""
    _kept[one.name] = one
    _kept.move_to_end(one.name)
    while len(_kept) > MOST:
        _kept.popitem(last=False)


def serve() -> None:
    """Serve ``GET /conceptguard/found``: [{name, finder, concepts}], the last one first; ``GET
    /conceptguard/found/NAME/``: its page; and ``POST /conceptguard/found/NAME/corrections``: what it says when they are
    done, or why they are not, with status 400. 404 where nothing of the name was found since the server started."""
    routes = PromptServer.instance.routes
    routes.get("/conceptguard/found")(_get_list)
    routes.get("/conceptguard/found/{name}/")(_get_page)
    routes.post("/conceptguard/found/{name}/corrections")(_post_corrections)


async def _get_list(request: web.Request) -> web.Response:
    return web.json_response([one.row() for one in reversed(_kept.values())])


async def _get_page(request: web.Request) -> web.Response:
    return web.Response(text=_named(request).page, content_type="text/html", headers={"Cache-Control": "no-store"})


async def _post_corrections(request: web.Request) -> web.Response:
    looked = _named(request).looked
    if (request.content_length or MOST_BYTES + 1) > MOST_BYTES:
        raise web.HTTPRequestEntityTooLarge(MOST_BYTES, request.content_length or 0)

    def correct(said: Any) -> str:
        with _one_at_a_time:
            return looked.correct(corrections_of(said, "corrections"))

    try:
        return web.Response(text=await asyncio.to_thread(correct, await request.json()))
    except (ConceptGuardError, ValueError) as error:
        return web.Response(text=str(error), status=400)


def _named(request: web.Request) -> Kept:
    name = request.match_info["name"]
    if name not in _kept:
        raise web.HTTPNotFound(text=f"nothing was found as '{name}' since the server started: run Find Concepts again")
    return _kept[name]
