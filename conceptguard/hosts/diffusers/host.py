"""The diffusers host for classic pipelines: text to image, image to image, inpainting, text to video."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from ...errors import GuardError
from ...runtime.bank import running
from ..denoising.families import family_of, unguarded
from .pipeline import PipelineHost, as_asked, is_diffusers, is_modular, reseeded
from .probing import composed
from .prompts import texts_of


class DiffusersHost(PipelineHost):
    """Host adapter for one pipeline. Raises SessionError for pipelines it cannot guard."""

    about = "a diffusers pipeline"

    @classmethod
    def takes(cls, target: Any) -> bool:
        """Any classic pipeline of diffusers, or of a class derived from one."""
        return is_diffusers(target) and not is_modular(target)

    def __init__(self, pipe: Any):
        if not hasattr(pipe, "encode_prompt"):
            raise unguarded(pipe, "it has no encode_prompt; ")
        super().__init__(pipe, family_of(pipe), partial(type(pipe).encode_prompt, pipe))

    def _routes(self) -> dict[str, Any]:
        cls, host = self._own_class, self

        def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
            return host.call(cls.__call__.__get__(self), *args, **kwargs)

        def encode_prompt(self: Any, *args: Any, **kwargs: Any) -> Any:
            return host.encode_prompt(cls.encode_prompt.__get__(self), *args, **kwargs)

        return {"__call__": __call__, "encode_prompt": encode_prompt}

    def call(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        """A guarded ``pipe(...)``."""
        given = inspect.signature(original).bind(*args, **kwargs)
        given.apply_defaults()
        bound = given.arguments
        guidance = self._guidance(bound)
        if not self.asked.has("check_image"):
            return self.generate(partial(original, *args, **kwargs), guidance)
        output_type = bound.get("output_type", "pil")
        if output_type == "latent":
            raise GuardError("this policy looks at images, and output_type='latent' returns none: ask for images")
        if not hasattr(self.pipe, "image_processor"):
            raise GuardError(f"this policy looks at images, and a {self._own_class.__name__} draws none")
        extra = bound.pop("kwargs", {})
        draw = partial(original, **{**bound, **extra, "output_type": "pt", "return_dict": True})

        def again(attempt: int) -> Tensor:
            redraw = partial(draw, generator=reseeded(bound.get("generator"), attempt))
            return self.anew(partial(redraw, **self._steered(bound, guidance))).images  # type: ignore[no-any-return]

        def looked_at(result: Any) -> Any:
            texts = texts_of(bound.get("prompt"), len(result.images))
            # From latents that the caller gave, the same image would come again.
            pixels = self.session.check_image(result.images, texts, again if bound.get("latents") is None else None)
            result.images = as_asked(self.pipe, pixels, output_type)
            if bound.get("return_dict", True):
                return result
            return tuple(getattr(result, field.name) for field in dataclasses.fields(result))

        return self.generate(draw, guidance, looked_at)

    def compose(
        self, texts: Sequence[str], weights: Sequence[float], generators: Sequence[Any], steps: int,
        latents: Tensor | None = None, begin: int = 0, eta: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """See ``Host.compose``."""
        return composed(self, self.call, texts, weights, generators, steps, latents, begin, eta)

    def _steered(self, bound: dict[str, Any], guidance: float | None) -> dict[str, Any]:
        """The negative prompts of another attempt: the caller's, and what was found in the images of each prompt."""
        prompt, own = bound.get("prompt"), bound.get("negative_prompt")
        guided = (guidance is None or guidance > 1) and bound.get("negative_prompt_embeds") is None
        if prompt is None or not guided or "negative_prompt" not in bound or not (found := self.session.steered()):
            return {}
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        each = int(bound.get("num_images_per_prompt") or 1)
        told = []
        for i in range(len(prompts)):
            words = [found[image] for image in range(i * each, (i + 1) * each) if image in found]
            before = own if own is None or isinstance(own, str) else own[i]
            told.append(", ".join(dict.fromkeys(filter(None, [before, *words]))))
        return {"negative_prompt": told[0] if isinstance(prompt, str) else told}

    def _guidance(self, bound: dict[str, Any]) -> float | None:
        """The scale of classifier-free guidance; None for a pipeline of somebody's own that takes none: it composes
        predictions as it likes. FLUX has its own, which takes effect beside a negative prompt only."""
        scale = float(bound.get(self.family.guidance) or 0.0)
        known = self.family.guidance in bound and self._own_class.__call__.__module__.startswith("diffusers.")
        # Beyond its bounds, rescaling turns what guidance made of the two around.
        if not known or not 0 <= float(bound.get("guidance_rescale") or 0.0) <= 1:
            return None
        if "negative_embeds" not in self.family.encoded:
            negative = bound.get("negative_prompt"), bound.get("negative_prompt_embeds")
            scale = scale if any(given is not None for given in negative) else 1.0
        return max(scale, 1.0)  # with less, pipelines of diffusers make one branch, and draw it as it is

    def _away(self, rows: int) -> list[bool | None]:
        """Guided pipelines put their negative prompts first, where both are in one call."""
        if self.family.separate or self.session.guidance_scale is None:
            return [None] * rows
        now = float(getattr(self.pipe, "_guidance_scale", self.session.guidance_scale))
        self.session.guide(max(now, 1.0))  # callbacks turn it off half-way
        both = now > 1 and getattr(self.model.config, "time_cond_proj_dim", None) is None
        return [both and i < rows // 2 for i in range(rows)]

    def _encodes_negative(self) -> bool:
        """A pipeline whose ``encode_prompt`` has no negative part calls it once more."""
        inside = running.get() is self.session
        return inside and self._memory.encoded > 0 and "negative_embeds" not in self.family.encoded
