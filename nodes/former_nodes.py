"""Nodes that enforcing servers put into graphs in former versions: pictures name them. They do nothing now."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io


class ConceptGuardEnforcedModel(io.ComfyNode):
    """Gives its MODEL on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptGuardEnforcedModel", display_name="Operator's policy (model, former)", is_deprecated=True,
            category="conceptguard", description="Of a former version; does nothing.",
            inputs=[io.Model.Input("model"), io.Clip.Input("clip")], outputs=[io.Model.Output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: Any, clip: Any) -> io.NodeOutput:
        return io.NodeOutput(model)


class ConceptGuardEnforcedImage(io.ComfyNode):
    """Gives its IMAGE on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptGuardEnforcedImage", display_name="Operator's policy (image, former)", is_deprecated=True,
            category="conceptguard", description="Of a former version; does nothing.",
            inputs=[io.Image.Input("image")], outputs=[io.Image.Output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, image: Any) -> io.NodeOutput:
        return io.NodeOutput(image)


FORMER: list[type[io.ComfyNode]] = [ConceptGuardEnforcedModel, ConceptGuardEnforcedImage]
