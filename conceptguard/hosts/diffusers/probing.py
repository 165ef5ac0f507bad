"""A guarded pipeline asked from without: one prediction with gradients, and one picture of several prompts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ...errors import SessionError
from ...generation.conditioning import Encoded
from ...runtime.bank import running
from ...runtime.lowrank import Factors
from .quiet import quiet

if TYPE_CHECKING:
    from ...protocols import DrawingSession
    from ..denoising.families import Family
    from ..denoising.text_encoders import TextEncoder
    from .denoiser import Denoiser


class _Host(Protocol):
    pipe: Any
    family: Family
    name: str

    @property
    def asked(self) -> DrawingSession: ...

    def denoiser(self) -> Denoiser: ...

    def device_dtype(self) -> tuple[torch.device, torch.dtype]: ...

    def encoders(self) -> list[TextEncoder]: ...


def predicted(
    host: _Host, encode: Callable[[str], Sequence[Any]], text: str, latents: Tensor, timestep: int, step: int,
    vectors: Tensor | None, guarded: bool,
) -> Tensor:  # fmt: skip
    """See ``Host.predict``. encode: the pipeline's own, guarded where a session generates, and with gradients."""
    denoiser = host.denoiser()

    def predict() -> Tensor:
        with torch.enable_grad(), _reading(host, text, vectors):
            by_role = dict(zip(host.family.encoded, encode(text)))
            # One row of conditions for each of the latents: guards know every one of them by its embedding.
            embeds = by_role["embeds"].expand(len(latents), -1, -1)
            pooled = by_role.get("pooled")
            pooled = None if pooled is None else pooled.expand(len(latents), -1)
            return denoiser(latents, torch.full((len(latents),), timestep), Encoded(embeds, [], pooled))

    if guarded:
        return host.asked.probe(predict, step)  # type: ignore[no-any-return]
    token = running.set(host)  # no session acts on what is asked in its host's name
    try:
        return predict()
    finally:
        running.reset(token)


def _reading(host: _Host, text: str, vectors: Tensor | None) -> Any:
    if vectors is None:
        return nullcontext()
    encoders = host.encoders()
    if len(encoders) != 1 or not encoders[0].begins or encoders[0].width is None:
        raise SessionError(
            f"{host.name} reads prompts with {len(encoders)} encoders, and input vectors are searched for one CLIP: "
            "use an attack that needs texts alone, such as random or ring_a_bell"
        )
    return encoders[0].reading(text, vectors)


@contextmanager
def wearing(pipe: Any, lora: Mapping[str, Factors]) -> Iterator[None]:
    """See ``Host.wearing``: by ``load_lora_weights``."""
    if not lora:
        yield
        return
    if not hasattr(pipe, "load_lora_weights"):
        raise SessionError(f"{type(pipe).__name__} loads no LoRAs")
    if pipe.get_list_adapters():
        raise SessionError("the pipeline has LoRAs of its own, which another one would put out: unload them first")
    tensors = {}
    for name, (down, up, scale) in lora.items():
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = down.clone(), up * scale
    try:
        with quiet():
            pipe.load_lora_weights(tensors)
        yield
    finally:
        pipe.unload_lora_weights()


def composed(
    host: _Host, call: Callable[..., Any], texts: Sequence[str], weights: Sequence[float], generators: Sequence[Any],
    steps: int, begun: Tensor | None = None, begin: int = 0, eta: float = 0.0,
) -> Tensor:  # fmt: skip
    """See ``Host.compose``. call: a guarded ``pipe(...)``, of a function in place of the pipeline's own.

    So it goes the way of every guarded call: prompts are encoded by the pipeline, predictions are made by its denoiser,
    and the picture is looked at.
    """
    pipe, count = host.pipe, len(generators)

    @torch.no_grad()
    def draw(prompt: Any, generator: Any, output_type: str = "pt", return_dict: bool = True) -> Any:
        device, dtype = host.device_dtype()
        rows = ["", *texts]
        embeds = torch.cat([
            pipe.encode_prompt(
                prompt=[text], device=device, num_images_per_prompt=1, do_classifier_free_guidance=False)[0]
            for text in rows
        ]).repeat_interleave(count, 0)  # fmt: skip
        scheduler = pipe.scheduler
        scheduler.set_timesteps(steps, device=device)
        if begun is None:
            shape = host.denoiser().shape
            latents = torch.stack([torch.randn(shape, generator=one) for one in generator]).to(device, dtype)
            latents = latents * scheduler.init_noise_sigma
        else:
            latents = begun.to(device, dtype)
        more = {"eta": eta, "generator": generator} if eta else {}
        shares = torch.tensor(weights, device=device, dtype=dtype).view(len(texts), 1, 1, 1, 1)
        for t in scheduler.timesteps[begin:]:
            given = scheduler.scale_model_input(latents.repeat(len(rows), 1, 1, 1), t)
            said = pipe.unet(given, t, encoder_hidden_states=embeds, return_dict=False)[0]
            made = said.unflatten(0, (len(rows), count))
            noise = made[0] + (shares * (made[1:] - made[:1])).sum(0)
            latents = scheduler.step(noise, t, latents, return_dict=False, **more)[0]
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
        return SimpleNamespace(images=(decoded / 2 + 0.5).clamp(0, 1))

    if host.family.denoiser != "unet" or len(host.encoders()) != 1:
        raise SessionError(
            f"several prompts at once are drawn with Stable Diffusion 1.x and 2.x, and not by {host.name}"
        )
    if eta and "eta" not in inspect.signature(pipe.scheduler.step).parameters:
        raise SessionError(f"{type(pipe.scheduler).__name__} adds no noise of its own: eta is DDIM's")
    return call(draw, [", ".join(texts)] * count, generator=list(generators)).images  # type: ignore[no-any-return]
