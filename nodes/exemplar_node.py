"""Exemplar: guard what a picture shows."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.finder import PictureSet, Search
from conceptguard.finding.encoders import EMBEDDED, load_encoder, split_words, words_for
from conceptguard.finding.files import guards_by_words
from conceptguard.hosts.comfyui.looking import LookingHost
from conceptguard.plugins import methods, offers
from conceptguard.policy import Policy, together
from conceptguard.policy_file import load_policy

from .policy_node import POLICY

FINDER = "concept_express"


class ConceptGuardExemplar(io.ComfyNode):
    """Exemplar."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        by_words = [name for name, method in methods().items() if method.needs == "concept"]
        return io.Schema(
            node_id="ConceptGuardExemplar", display_name="Exemplar", category="conceptguard",
            description="A policy from one picture: its parts, by the words that the model itself would draw them by. "
            "Nothing is sampled or trained.",
            inputs=[
                io.Image.Input("image", tooltip="A square picture of the size that the model draws."),
                io.Model.Input("model"), io.Clip.Input("clip"), io.Vae.Input("vae"),
                io.Combo.Input("method", options=by_words, default="negative_guidance",
                               tooltip="What guards what is found."),
                io.String.Input("words", default="",
                                tooltip="What the picture may show, with commas between; by default all that the "
                                "embedded model draws."),
                POLICY.Input("policy", optional=True, tooltip="Guards to put these after."),
            ],
            outputs=[
                POLICY.Output(display_name="policy"), io.String.Output(display_name="found"),
                io.Mask.Output(display_name="parts"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, image: Tensor, model: Any, clip: Any, vae: Any, method: str, words: str, policy: Policy | None = None
    ) -> io.NodeOutput:
        if len(image) != 1:
            raise PolicyError(f"an exemplar is one picture, and these are {len(image)}: choose one of the batch")
        pixels = (image[0].movedim(-1, 0) * 255).round().clamp(0, 255).byte().cpu()
        finder = offers("finders")[FINDER]
        search = Search(
            LookingHost(model, clip, vae, (int(pixels.shape[1]), int(pixels.shape[2]))), None,
            finder.FindSettings(steps=0), 0, FINDER, False, PictureSet(pixels[None], ["the picture"], [""]),
            load_encoder(), words_for(EMBEDDED, split_words(words), things=True),
        )  # fmt: skip
        found = finder.find(search)
        guards = [{**guard, "method": method} for guard in guards_by_words(found.concepts)]
        if not guards:
            raise PolicyError(
                "no word of those that are known stands out for this picture, so that nothing would be guarded: give "
                "words of yours for what it shows"
            )
        own = load_policy({"name": "exemplar", "guards": guards})
        report = "\n".join(f"{one.name}: {', '.join(one.evoked) or 'no word, not guarded'}" for one in found.concepts)
        parts = torch.cat([one.maps for one in found.concepts]).float()
        return io.NodeOutput(together(policy, own) if policy is not None else own, report, parts)
