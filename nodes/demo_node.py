"""Load Demo Model: the embedded model, so that a graph runs on any machine and without a download."""

from __future__ import annotations

from comfy_api.latest import io

from conceptguard.hosts.comfyui.load import load_parts

from . import choices


class ConceptGuardDemoModel(io.ComfyNode):
    """Load Demo Model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptGuardDemoModel", display_name="Load Demo Model", category="conceptguard",
            description="A small real Stable Diffusion model of emoji that comes with conceptguard: 128 by 128 pixels, "
            "seconds on a CPU. E.g. 'a pistol, noto style', 25 steps, cfg 3.5.",
            inputs=[io.Combo.Input("name", options=choices.models(), default=choices.models()[0])],
            outputs=[
                io.Model.Output(display_name="model"), io.Clip.Output(display_name="clip"),
                io.Vae.Output(display_name="vae"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        return io.NodeOutput(*load_parts(name))
