"""The ComfyUI host: a MODEL and the CLIP that its prompts are encoded with.

A guarded MODEL is a clone with one wrapper around every sampling. While it samples, and only then, hooks on the
diffusion model compute the gates from the conditioning that arrives there, whichever way it was wired; texts are
recognised by their embeddings. Nothing is left on the model between two samplings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ...errors import GuardError, SessionError
from ...generation.conditioning import Encoded
from ...host import Host
from ...receipt import Receipt
from ...registry.cache import cache_folder
from ...registry.fingerprint import check_base, fingerprint
from ...runtime.encodings import EncodingCache, encoding_cache_of
from ...runtime.lowrank import LayerIndex
from ...runtime.once import once
from ..denoising.attention_maps import cross_attentions
from ..denoising.families import FAMILIES, XL, Family
from ..denoising.noise_levels import NoiseLevels
from .call import closed
from .encoder import ComfyEncoder
from .layers import encoders_of, layers_of
from .noise_levels import noise_levels
from .sampling import Sampling, guidance_of
from .text import Texts
from .weight_patches import WeightPatches, own_weights

if TYPE_CHECKING:
    from ...protocols import Denoiser, DrawingSession
    from ...registry import Artifact

KEY = "conceptguard"
_KINDS = {
    "BaseModel": FAMILIES["UNet2DConditionModel"], "SDXL": XL, "SDXL_instructpix2pix": XL,
    "SD3": FAMILIES["SD3Transformer2DModel"], "Flux": FAMILIES["FluxTransformer2DModel"],
    "WAN21": FAMILIES["WanTransformer3DModel"],
}  # fmt: skip
_CLIPS = {
    frozenset("l"): _KINDS["BaseModel"], frozenset("h"): _KINDS["BaseModel"], frozenset("gl"): XL,
    frozenset(("l", "g", "t5xxl")): _KINDS["SD3"], frozenset(("l", "t5xxl")): _KINDS["Flux"],
    frozenset(("umt5xxl",)): _KINDS["WAN21"],
}  # fmt: skip


class Target(NamedTuple):
    """What is guarded: a comfy ModelPatcher, or None for a CLIP alone; and the comfy CLIP that concepts and prompts are
    read with."""

    model: Any
    clip: Any


class ComfyHost(Host):
    """Host adapter for one MODEL and CLIP. Raises SessionError for models it cannot guard.

    candidates: gives texts that may have been encoded elsewhere, e.g. those in the graph
    on_step: called with the receipt after every call of the denoiser, and with True when a sampling ended
    receipts: of the last samplings
    """

    about = "in ComfyUI a (MODEL, CLIP) pair"

    @classmethod
    def takes(cls, target: Any) -> bool:
        """A pair of comfy's ModelPatcher, or None, and CLIP."""
        return isinstance(target, tuple) and len(target) == 2 and hasattr(target[1], "cond_stage_model")

    def __init__(self, target: Any):
        super().__init__(Target(*target))
        self.patcher, clip = self.target
        self.base: Any = getattr(self.patcher, "model", None)
        self.family: Family = _family_of_clip(clip) if self.base is None else _family_of(self.base)
        kind = clip.cond_stage_model if self.base is None else self.base.model_config
        self.name = f"ComfyUI {type(kind).__name__}"
        self.denoiser_name = self.family.denoiser
        self.texts = Texts(self.family, clip)
        self.candidates: Callable[[], Iterable[str]] = tuple
        self.on_step: Callable[[Receipt, bool], None] = lambda receipt, done: None
        self.receipts: deque[Receipt] = deque(maxlen=16)
        self._session: DrawingSession | None = None
        self._sampling: Sampling | None = None
        self.weight_patches: WeightPatches | None = None
        self._compiled = False

    # What a session and a method may ask.

    def layers(self) -> LayerIndex:
        """Linear and convolution layers of the model and the text encoders under diffusers names."""
        return layers_of(self.family, self.patcher, self.texts.clip)

    def weights(self) -> Callable[[str], Tensor]:
        """Weights by canonical names of layers, without patches."""
        clip = self.texts.clip.patcher
        components = {name.split(".", 1)[0] for name in self.layers()}
        return own_weights(
            self.layers(), {name: self.patcher if name == self.family.denoiser else clip for name in components}
        )

    def compiled(self) -> bool:
        """Whether the sampling that runs is of a compiled model."""
        return self._compiled

    def device_dtype(self) -> tuple[torch.device, torch.dtype]:
        """Where the model samples, and in what it computes."""
        if self.base is None:
            return self.texts.clip.patcher.load_device, self.texts.clip.patcher.model_dtype() or torch.float32
        return self.patcher.load_device, self.base.manual_cast_dtype or self.base.get_dtype()

    def fingerprint(self) -> str:
        """Same for a fine-tuned sibling, and for the same model in diffusers; different for another architecture."""
        return once(self, "fingerprint", lambda: fingerprint(self.layers().shapes()))

    def check_base(self, artifact: Artifact) -> None:
        """Raises BaseMismatch when the artifact was made for another architecture."""
        check_base(artifact, self.fingerprint(), "MODEL", self.encoder_fingerprint)

    @torch.no_grad()
    def encode(self, texts: Sequence[str | tuple[str, ...]]) -> Encoded:
        """Texts as the denoiser sees them, a window each."""
        with closed(self):
            return self.texts.encode(texts)

    @torch.no_grad()
    def read(self, texts: list[str]) -> Encoded:
        """Texts as gates read them: a begin token, then the text's own, in one encoder's space."""
        with closed(self):
            return self.texts.read(texts)

    def encoding_cache(self) -> EncodingCache:
        """Concept prompts that this CLIP has read, for this session or an earlier one."""
        encoder = self.texts.clip.cond_stage_model
        ask = partial(encoding_cache_of, [encoder], "prompt", self.read, self.tokens, folder=cache_folder())
        return once(encoder, "encodings", ask)

    def tokens(self, texts: list[str], whole: bool = False) -> list[list[int]]:
        """Token ids without begin, end and padding, cut at the encoder's window unless ``whole``."""
        found = [[token for window in self.texts.tokens(text) or [] for token in window] for text in texts]
        return [ids[: None if whole else self.window] for ids in found]

    @property
    def window(self) -> int:
        """How many tokens of a text are encoded together."""
        return self.family.window or int(self.texts.tokenizer(self.texts.key).max_length) - 2

    def encoders(self) -> list[ComfyEncoder]:
        """The text encoders one by one, each with its own tokens and its part of an embedding."""
        found: list[ComfyEncoder] = []
        at: dict[int, int] = {}
        pooled_at = 0
        modules = encoders_of(self.family, self.texts.clip)
        for place in self.family.encoders:
            if place.name not in modules:
                continue
            module, key = modules[place.name], self.key_of(place.name)
            encoder = ComfyEncoder(self, self.texts, module, key, place, at.get(place.start, 0), pooled_at)
            at[place.start] = encoder.width.stop if encoder.width else at.get(place.start, 0)
            pooled_at = encoder.pooled.stop if encoder.pooled else pooled_at
            found.append(encoder)
        return found

    def key_of(self, component: str) -> str:
        """ComfyUI's short name ("l", "g", "t5xxl") of a text encoder."""
        clip = self.texts.clip.cond_stage_model
        module = encoders_of(self.family, self.texts.clip)[component]
        return next(k for k in self.texts.keys if module in (getattr(clip, f"clip_{k}", None), getattr(clip, k, None)))

    def denoiser(self) -> Denoiser:
        """Never: artifacts are made with diffusers."""
        raise SessionError("artifacts are made on a diffusers pipeline: see `conceptguard make --help`")

    def noise_levels(self) -> NoiseLevels:
        """How much picture and how much noise latents hold, as the diffusion model is given them, at a timestep."""
        return noise_levels(self.base.model_sampling)

    def attends(self) -> bool:
        """Whether the model's attention to text can be read, token by token: a UNet's can."""
        return (
            self.denoiser_name == "unet" and self.base is not None and bool(cross_attentions(self.base.diffusion_model))
        )

    # Routing.

    def attach(self, session: DrawingSession) -> None:
        """Nothing is attached before a guarded clone samples."""
        self._session, self.weight_patches = session, WeightPatches(session)

    def detach(self) -> None:
        """Guarded clones refuse to sample from now on."""
        self._session = self.weight_patches = None

    @property
    def session(self) -> DrawingSession:
        if self._session is None:
            raise GuardError("this MODEL's guards were detached: guard it again")
        return self._session

    def guarded(self) -> Any:
        """A clone of the MODEL that samples under the session only, whatever sampler is used."""
        from comfy.patcher_extension import WrappersMP

        clone = self.patcher.clone()
        host = self

        def sample(executor: Any, *args: Any, **kwargs: Any) -> Any:  # plain: clones copy options deeply
            return host.sample(executor, *args, **kwargs)

        def apply(executor: Any, latents: Any, *args: Any, **kwargs: Any) -> Any:
            return executor(latents if host._sampling is None else host._sampling.given(latents), *args, **kwargs)

        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, sample)
        if self.session.has("condition"):
            clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, apply)
        clone.set_attachments(KEY, self.session)
        return clone

    def sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """One sampling, under the session. executor: what ComfyUI's wrappers are given."""
        guider, session = executor.class_obj, self.session
        if guider.model_patcher.model is not self.base:
            raise GuardError("this sampler draws with another model than the guarded one: guard that one")
        self._compiled = "torch.compile" in guider.model_patcher.wrappers.get("apply_model", {})
        sampling = self._sampling = Sampling(self, session)
        try:
            return session.run(lambda: sampling.run(executor, *args, **kwargs), guidance_of(guider))
        finally:
            self._sampling = None
            self.receipts.append(session.receipt)
            self.on_step(session.receipt, True)


def unguarded(model: Any) -> Any:
    """A MODEL without the guards that an earlier session gave it; LoRAs and other patches stay."""
    from comfy.patcher_extension import WrappersMP

    if KEY not in model.attachments:
        return model
    clone = model.clone()
    for place in (WrappersMP.OUTER_SAMPLE, WrappersMP.APPLY_MODEL):
        clone.remove_wrappers_with_key(place, KEY)
    del clone.attachments[KEY]
    return clone


def _family_of(base: Any) -> Family:
    kind = type(base).__name__
    if kind not in _KINDS or not hasattr(base, "diffusion_model"):
        raise SessionError(
            f"cannot guard a model of ComfyUI's kind '{kind}': Stable Diffusion 1.x, 2.x, SDXL, Stable Diffusion 3, "
            "FLUX and Wan can be"
        )
    return _KINDS[kind]


def _family_of_clip(clip: Any) -> Family:
    keys = frozenset(clip.tokenize(""))
    if keys not in _CLIPS:
        raise SessionError(
            f"cannot guard a CLIP of the encoders {', '.join(sorted(keys))}: those of Stable Diffusion 1.x, 2.x, SDXL, "
            "Stable Diffusion 3, FLUX and Wan can be"
        )
    return _CLIPS[keys]
