"""The kinds of diffusers pipelines that can be guarded, and where each keeps what guards act on.

Methods know none of this: they see embeddings, predictions and layers, whichever pipeline these belong to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...errors import SessionError

Role = Literal["embeds", "negative_embeds", "pooled", "negative_pooled", "other"]


@dataclass(frozen=True)
class EncoderPlace:
    """Where a family of pipelines keeps one text encoder's answer.

    name: the component, with a tokenizer of the same number
    states: which of its states the denoiser is given, None for none
    pooled: whether it is given a pooled vector of it
    start: the first position of the states in an embedding
    padded: to how many positions a pipeline pads texts by default, where the encoder sees the padding as it sees text;
    None where no state of a text depends on it
    """

    name: str
    states: Literal["last", "penultimate"] | None = "last"
    pooled: bool = False
    start: int = 0
    padded: int | None = None

    @property
    def number(self) -> int:
        """Which of the prompts it reads: ``prompt`` is 0, ``prompt_2`` is 1."""
        return int(self.name.removeprefix("text_encoder").strip("_") or 1) - 1


@dataclass(frozen=True)
class Family:
    """One kind of pipeline.

    encoders: where each text encoder's answer stands
    denoiser: the component that predicts noise or velocity
    sample, pooled: its arguments for latents and, as a path, for pooled embeddings; () where it takes none
    encoded: what ``encode_prompt`` returns, in order; a negative part is there only where guidance is on
    guidance: the argument of a call that is the scale of classifier-free guidance
    separate: whether each branch is a denoiser call of its own; else they are rows of one
    tokenizer: whose tokens a text's ids are; window: how many of them count, None for what that tokenizer says
    begins: whether embeddings start with a begin token, as CLIP's do and T5's do not
    readable: how many of the first positions gates read, None for all. The others are of another encoder
    clock: timesteps per unit of the denoiser's own time
    """

    encoders: tuple[EncoderPlace, ...]
    denoiser: str = "transformer"
    sample: str = "hidden_states"
    pooled: tuple[str, ...] = ()
    encoded: tuple[Role, ...] = ("embeds", "negative_embeds", "pooled", "negative_pooled")
    guidance: str = "guidance_scale"
    separate: bool = False
    tokenizer: str = "tokenizer"
    window: int | None = None
    begins: bool = True
    readable: int | None = None
    clock: float = 1.0

    def reading(self, embeds: Tensor) -> Tensor:
        """Embeddings [rows, tokens, width] as gates read them: a begin token, then the text's own."""
        if not self.begins:
            return torch.cat([torch.zeros_like(embeds[:, :1]), embeds], dim=1)
        return embeds[:, : self.readable]


XL = Family(
    (EncoderPlace("text_encoder", "penultimate"), EncoderPlace("text_encoder_2", "penultimate", pooled=True)),
    denoiser="unet", sample="sample", pooled=("added_cond_kwargs", "text_embeds"),
)  # fmt: skip
FAMILIES = {
    "UNet2DConditionModel": Family((EncoderPlace("text_encoder"),), denoiser="unet", sample="sample"),
    # CLIP's 77 positions, then T5's: a text is cut where T5 cuts it.
    "SD3Transformer2DModel": Family(
        (
            EncoderPlace("text_encoder", "penultimate", pooled=True),
            EncoderPlace("text_encoder_2", "penultimate", pooled=True),
            EncoderPlace("text_encoder_3", start=77, padded=256),
        ),
        pooled=("pooled_projections",), window=254, readable=77,
    ),
    "FluxTransformer2DModel": Family(
        (EncoderPlace("text_encoder", None, pooled=True), EncoderPlace("text_encoder_2", padded=512)),
        pooled=("pooled_projections",), encoded=("embeds", "pooled", "other"), guidance="true_cfg_scale",
        separate=True, tokenizer="tokenizer_2", window=511, begins=False, clock=1000.0,
    ),
    "WanTransformer3DModel": Family(
        (EncoderPlace("text_encoder"),),
        encoded=("embeds", "negative_embeds"), separate=True, window=511, begins=False,
    ),
}  # fmt: skip
GUARDED = "Stable Diffusion 1.x, 2.x, SDXL, Stable Diffusion 3, FLUX and Wan pipelines can be guarded"


def family_of(pipe: Any) -> Family:
    """The kind of a pipeline, by its denoiser. Raises SessionError for one that cannot be guarded."""
    for name in ("unet", "transformer"):
        model = getattr(pipe, name, None)
        for cls in type(getattr(model, "_orig_mod", model)).__mro__:
            if cls.__name__ in FAMILIES:
                if getattr(pipe, "transformer_2", None) is not None:
                    raise SessionError(f"cannot guard this {type(pipe).__name__}: it has a second denoiser")
                two = name == "unet" and hasattr(pipe, "text_encoder_2")
                return XL if two else FAMILIES[cls.__name__]
    raise unguarded(pipe)


def unguarded(pipe: Any, why: str = "") -> SessionError:
    """The error for a pipeline that cannot be guarded."""
    return SessionError(f"cannot guard a {type(pipe).__name__}: {why}{GUARDED}")
