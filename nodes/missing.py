"""What the pack is while its package is not installed: one node that says so, and a route for the page."""

from __future__ import annotations

import logging
import sys

from comfy_api.latest import ComfyExtension, io

from .routes import tell_status


class Missing(ComfyExtension):
    """Says what is wrong and how to mend it: in the log, to the page, and in a node."""

    def __init__(self, error: ImportError):
        self.message = (
            f"ConceptGuard's nodes need the conceptguard package ({error}): run `{sys.executable} -m pip install "
            "conceptguard` and restart ComfyUI"
        )

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        message = self.message
        logging.error(message)
        tell_status(message)

        class ConceptGuardMissing(io.ComfyNode):
            @classmethod
            def define_schema(cls) -> io.Schema:
                return io.Schema(
                    node_id="ConceptGuardMissing", display_name="ConceptGuard is not installed",
                    category="conceptguard", description=message, is_output_node=True,
                )  # fmt: skip

            @classmethod
            def execute(cls) -> io.NodeOutput:
                raise RuntimeError(message)

        return [ConceptGuardMissing]
