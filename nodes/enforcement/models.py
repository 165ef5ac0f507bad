"""A MODEL under the operator's policy, and the births of what is sampled with it."""

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from conceptguard.policy import Policy

from ..guard_nodes import guard_model
from . import denoiser_lock
from .taint import here

KEY = "conceptguard enforced"


def is_model(value: Any) -> bool:
    """Whether a value is a MODEL that pictures are drawn with."""
    return isinstance(value, ModelPatcher) and hasattr(value.model, "diffusion_model")


def guarded(model: Any, clip: Any, policy: Policy, looks: bool) -> Any:
    """The same MODEL under the policy; made once for a MODEL and a CLIP, and kept with the MODEL. Raises SessionError.

    clip: what its prompts are encoded with; looks: whether latents that it gives are to be looked at
    """
    known = vars(model).get(KEY)
    if known is None or known[0] is not clip:
        known = vars(model)[KEY] = clip, _under(policy, model, clip, looks)
    return known[1]


def _under(policy: Policy, model: Any, clip: Any, looks: bool) -> Any:
    clone, session = guard_model(model, clip, policy, here().node)
    denoiser_lock.sessions.add(session)

    def sample(
        executor: Any, noise: Any, latent: Any, sampler: Any, sigmas: Any, mask: Any = None, callback: Any = None,
        *args: Any, **kwargs: Any,
    ) -> Any:  # fmt: skip
        heading: list[Tensor] = []

        def step(i: int, x0: Tensor, x: Tensor, steps: int) -> None:
            heading[:] = [x0]
            if callback is not None:
                callback(i, x0, x, steps)

        found: list[Tensor] = []
        try:
            found += [executor(noise, latent, sampler, sigmas, mask, step, *args, **kwargs)]
            if heading and float(sigmas[-1]) > 0:  # it stopped on its way: noise must not hide where to
                found += [clone.model.process_latent_out(heading[0].to(found[0]))]
            return found[0]
        finally:
            for latents in (found if looks else ()) or [None]:
                birth = here().bear(not looks, session.receipt, latents)
                birth.vae, birth.channels = here().vae, clone.model.latent_format.latent_channels

    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, sample)
    return clone
