"""The pack's nodes, and what starts with the server."""

from __future__ import annotations

import logging
import os

from comfy_api.latest import ComfyExtension, io

from . import routes
from .demo_node import ConceptGuardDemoModel
from .guard_nodes import ConceptGuardEncoder, ConceptGuardExplain, ConceptGuardModel
from .image_nodes import ConceptGuardCheckImage, ConceptGuardReceipt
from .policy_node import ConceptGuardPolicy


def _enforce() -> tuple[str | None, list[type[io.ComfyNode]]]:
    """The operator's policy in force, if there is one; the server ends where it cannot be."""
    if not os.environ.get("CONCEPTGUARD_ENFORCE"):
        return None, []
    try:
        from .enforcement import server

        return server.start(), server.NODES
    except Exception as error:
        logging.critical("ConceptGuard: the policy in CONCEPTGUARD_ENFORCE is not in force: %s", error)
        raise SystemExit(1) from error


class ConceptGuard(ComfyExtension):
    """All nodes of the pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        enforced, more = _enforce()
        routes.tell_status(enforced=enforced)
        routes.serve_registry()
        return [
            *more,
            ConceptGuardPolicy, ConceptGuardModel, ConceptGuardEncoder, ConceptGuardCheckImage, ConceptGuardReceipt,
            ConceptGuardExplain, ConceptGuardDemoModel,
        ]  # fmt: skip
