"""The contract kit in ComfyUI: the embedded model as MODEL and CLIP, sampled as KSampler does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from artifacts_of import EDITS, ENCODED, speaking
from core import Unavailable, inside
from random_artifacts import random_terms, write_terms
from torch import Tensor

import conceptguard
from conceptguard import Session, attach, plugins
from conceptguard.hookspecs import TEXT
from conceptguard.testing import Bench, Case, NotApplicable
from conceptguard.testing.matrix import Cell

HOST = "ComfyUI"
_FOLDER = tempfile.TemporaryDirectory()
SMOKING = "a man smoking a cigarette, noto style"
TRAINED = ("esd", "all_but_one", "realera", "doco")
OPENS = {
    **dict.fromkeys(TRAINED, "a pistol, noto style"),
    "astar": "a cigarette and a dog, noto style",
    "normalise": "a man smoking a c1garette, noto style",  # what is written plainly it leaves alone
}
UNRELATED = ("a red apple, noto style", "a small dog, mono style")
CONCEPT = {"name": "cigarette", "prompts": ["cigarette", "a man smoking a cigarette"]}
GUARDS: dict[str, dict[str, Any]] = {
    **{method: {"artifact": f"emoji-sd/{method}/cigarette"} for method in ("spm", *EDITS)},
    "lora": {"artifact": "emoji-sd/spm/cigarette"},
    **{method: {"artifact": f"emoji-sd/{method}/pistol"} for method in TRAINED},
    "itd": {"artifact": "emoji-sd/itd/ten-objects", "concept": CONCEPT},
    "safree": {"concept": CONCEPT, "positions": "all", "schedule": False},
}  # fmt: skip
ELSEWHERE = {
    "geom_erasing": "it acts on every picture: what it removes no prompt asks for",
    **dict.fromkeys(
        ("clarify", *ENCODED), "it acts where the prompt is encoded, in Guard Encoder: see tests/hosts/comfyui"
    ),
    **dict.fromkeys(
        ("probe", "nudenet", "nsfw", "text", "code", "watermark"),
        "Check Image looks at pictures, and no sampler does: see tests/hosts/comfyui",
    ),
}


class Parts(tuple[Any, Any]):
    """(MODEL, CLIP), which a policy attaches to, and which draws when it is called, as a pipeline does."""

    session: Session | None = None

    @property
    def unet(self) -> Any:
        """The diffusion model, which the kit's own hooks watch."""
        return self[0].model.diffusion_model

    @property
    def components(self) -> dict[str, Any]:
        """What a guard could leave something on."""
        return {"unet": self.unet, "text_encoder": self[1].cond_stage_model}

    @torch.inference_mode()
    def __call__(
        self, prompts: Sequence[str], negative: Sequence[str], seeds: Sequence[int], steps: int, cfg: float
    ) -> Tensor:
        """Latents [rows, 4, 16, 16], row i from ``seeds[i]``."""
        import comfy.sample

        model, clip = self
        if self.session is not None:
            self.session.host.candidates = lambda: (*prompts, *negative)  # type: ignore[attr-defined]
            model = self.session.host.guarded()  # type: ignore[attr-defined]
        noise = torch.cat([torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(s)) for s in seeds])
        positive, away = ([[torch.cat([_encoded(clip, text)[0][0] for text in texts]), _encoded(clip, texts[0])[0][1]]]
                          for texts in (list(prompts), list(negative)))  # fmt: skip
        return comfy.sample.sample(
            model, noise, steps, cfg, "euler", "normal", positive, away, torch.zeros_like(noise), disable_pbar=True,
            seed=0,
        )  # fmt: skip


def _encoded(clip: Any, text: str) -> Any:
    """What CLIP Text Encode gives; pooled embeddings have no part in Stable Diffusion 1.x."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


class ComfyBench(Bench):
    """Runs a case on ``Parts``."""

    @contextmanager
    def attached(self, *guards: Mapping[str, Any], pipe: Any = None) -> Iterator[Session]:
        """The parts under these guards (by default the case's own)."""
        parts = self.pipe if pipe is None else pipe
        with attach(parts, self.policy(*guards)) as session:
            parts.session = session
            try:
                yield session
            finally:
                parts.session = None

    def generate(self, pipe: Any, prompts: Sequence[str] | None, seeds: Sequence[int] = (), **options: Any) -> Tensor:
        """One sampling, row i from ``seeds[i]`` (by default i)."""
        if prompts is None:
            raise NotApplicable(
                "a sampler takes conditionings, whose texts the host recognises: see tests/hosts/comfyui"
            )
        negative = options.pop("negative_prompt", None) or [""] * len(prompts)
        cfg = float(options.pop("guidance_scale", 3.5))
        return pipe(prompts, negative, seeds or range(len(prompts)), self.case.steps, cfg)

    def takes(self, argument: str) -> bool:
        """Several images of a prompt are a batch here, and embeddings are how every prompt comes."""
        return argument == "negative_prompt"

    def copied(self, dtype: torch.dtype | None = None) -> Any:
        """Never: ComfyUI itself chooses types and places of weights."""
        raise NotApplicable("ComfyUI itself chooses types and places of weights: see tests/hosts/comfyui")


@cache
def parts() -> Parts:
    """The embedded model, once for all cases. Raises NotApplicable where there is no core."""
    try:
        inside()
    except Unavailable as why:
        raise NotApplicable(f"no ComfyUI core here: {why}") from None
    from conceptguard.hosts.comfyui.load import load_parts

    loaded = load_parts("emoji-sd")
    return Parts((loaded.model, loaded.clip))


@cache
def _random(method: str) -> str:
    """An artifact of random terms beside the embedded model's attention: no concept of its own, but it acts."""
    pipe = conceptguard.load_model("emoji-sd")
    made = random_terms(pipe, names=("attn2.",), size=0.2)
    return str(write_terms(Path(_FOLDER.name) / method, pipe, made, method=method))


def comfy_cells(methods: Iterable[str]) -> Iterator[Cell]:
    """The shipped methods in ComfyUI."""

    def case(method: str) -> Case:
        if method in ELSEWHERE:
            raise NotApplicable(ELSEWHERE[method])
        opens, kind = OPENS.get(method, SMOKING), plugins.method(method)
        if plugins.hooks(kind) & TEXT:
            guard = speaking(method)
        elif kind.needs == "artifact" and method not in GUARDS:
            guard = {"method": method, "artifact": _random(method)}
        else:
            guard = {"method": method, **GUARDS.get(method, {"concept": CONCEPT})}
        return Case(guard, opens=opens, unrelated=UNRELATED, load=parts, steps=6 if method == "magicmix" else 2)

    made: Callable[[str], Cell] = lambda method: Cell(method, HOST, partial(case, method), bench=ComfyBench)  # noqa: E731
    yield from map(made, (method for method in methods if not plugins.method(method).modules))
