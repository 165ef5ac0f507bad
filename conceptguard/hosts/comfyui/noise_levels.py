"""The noise schedule of a ComfyUI model, as guards know those of diffusers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ...errors import GuardError
from ..denoising.noise_levels import NoiseLevels


def noise_levels(sampling: Any) -> NoiseLevels:
    """How much picture and how much noise latents hold, as the diffusion model is given them, at a timestep.

    sampling: a comfy ModelSampling, maybe one that another node put in place of the model's own. Raises GuardError for
    kinds that diffusers does not have
    """
    from comfy.model_sampling import CONST, EDM, EPS, V_PREDICTION, X0, ModelSamplingDiscrete, ModelSamplingDiscreteEDM

    if isinstance(sampling, CONST):
        return NoiseLevels(SimpleNamespace(config={}))
    kinds = {X0: "sample", V_PREDICTION: "v_prediction", EPS: "epsilon"}
    kind = next((name for cls, name in kinds.items() if isinstance(sampling, cls)), None)
    table = isinstance(sampling, ModelSamplingDiscrete) and not isinstance(sampling, ModelSamplingDiscreteEDM)
    if kind is None or not table or isinstance(sampling, EDM):
        raise GuardError(
            f"a guard mixes latents, and this model's noise schedule ({type(sampling).__mro__[1].__name__}) is none "
            "that it knows: take the node that changes the schedule out of the graph, or use another guard"
        )
    alphas = 1 / (1 + sampling.sigmas.cpu().double() ** 2)
    return NoiseLevels(SimpleNamespace(config={"prediction_type": kind}, alphas_cumprod=alphas))
