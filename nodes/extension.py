"""The pack's nodes, and what starts with the server."""

from __future__ import annotations

import os

from comfy_api.latest import ComfyExtension, io

from . import found, routes
from .demo_node import ConceptGuardDemoModel
from .exemplar_node import ConceptGuardExemplar
from .find_node import ConceptGuardFind
from .former_nodes import FORMER
from .guard_nodes import ConceptGuardEncoder, ConceptGuardExplain, ConceptGuardModel
from .image_nodes import ConceptGuardCheckImage, ConceptGuardReceipt
from .policy_node import ConceptGuardPolicy

ENFORCE = "CONCEPTGUARD_ENFORCE"


def begin() -> None:
    """What starts with the server: the operator's policy, if there is one, then the routes. Raises where it cannot."""
    enforced = None
    if os.environ.get(ENFORCE):
        from .enforcement import server

        enforced = server.start()
    routes.tell_status(enforced=enforced)
    routes.serve_registry()
    found.serve()


class ConceptGuard(ComfyExtension):
    """All nodes of the pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            ConceptGuardPolicy, ConceptGuardModel, ConceptGuardEncoder, ConceptGuardCheckImage, ConceptGuardReceipt,
            ConceptGuardExplain, ConceptGuardExemplar, ConceptGuardDemoModel,
            # Its pages show pictures that an operator's policy did not look at.
            *(FORMER if os.environ.get(ENFORCE) else (ConceptGuardFind,)),
        ]  # fmt: skip
