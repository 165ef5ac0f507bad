"""Pictures for figures: the same prompts and seeds, guarded or not, in the same batches; unguarded ones are kept.

A picture is bit-identical to another only where batch, thread count and library are the same, so all of these are part
of the key under which a batch is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files.atomic import write_bytes
from ..registry.cache import cache_folder
from .suite import Sample

Tick = Callable[[int], None]


@dataclass(frozen=True)
class Recipe:
    """How pictures are made. batch: pictures at once; guidance: what the embedded model's card was measured at."""

    steps: int = 25
    guidance: float = 3.5
    batch: int = 8


@dataclass
class Pictures:
    """pixels: uint8 [n, 3, height, width]; digests: one hash of the exact float pixels each."""

    pixels: Tensor
    digests: list[str]

    def __len__(self) -> int:
        return len(self.digests)

    def identical(self, other: Pictures) -> float:
        """Share of pictures that are bit-identical to those of ``other`` at the same place, 0 to 1."""
        same = [a == b for a, b in zip(self.digests, other.digests)]
        return sum(same) / len(same) if same else 1.0


def make(pipe: Any, samples: Sequence[Sample], recipe: Recipe, tick: Tick = lambda n: None) -> Pictures:
    """Generate every sample with its own seed. ``tick`` hears how many are done. The pipeline may be guarded."""
    parts = []
    for part in batches(samples, recipe.batch):
        parts.append(_make(pipe, part, recipe))
        tick(len(part))
    return joined(parts)


def make_once(pipe: Any, samples: Sequence[Sample], recipe: Recipe, tick: Tick = lambda n: None) -> Pictures:
    """The same for an unguarded pipeline, kept in the user's cache from then on."""
    (made,) = make_groups_once(pipe, [samples], recipe, tick)
    return made


def make_groups_once(
    pipe: Any, groups: Sequence[Sequence[Sample]], recipe: Recipe, tick: Tick = lambda n: None, weights: str = ""
) -> list[Pictures]:
    """The same for several groups, each in batches of its own: what all keys have in common is found once.

    weights: their digest, where it is known
    """
    common = f"{weights or weights_digest(pipe)} {_surroundings(pipe)} {json.dumps(asdict(recipe), sort_keys=True)}"
    return [joined([_kept(pipe, part, recipe, common, tick) for part in batches(g, recipe.batch)]) for g in groups]


def _kept(pipe: Any, samples: Sequence[Sample], recipe: Recipe, common: str, tick: Tick) -> Pictures:
    """One batch, out of the cache or drawn and put there. common: what decides the last bit, beside the samples."""
    from safetensors.torch import load, save

    key = hashlib.sha256(f"{common} {[(s.prompt, s.seed) for s in samples]}".encode()).hexdigest()
    path = cache_folder() / "pictures" / key[:2] / f"{key}.safetensors"
    try:
        kept = load(path.read_bytes())
        made = Pictures(kept["pixels"], [bytes(row.tolist()).hex() for row in kept["digests"]])
    except Exception:  # not there, or no longer whole: make it again
        made = _make(pipe, samples, recipe)
        digests = torch.tensor([list(bytes.fromhex(d)) for d in made.digests], dtype=torch.uint8)
        write_bytes(path, save({"pixels": made.pixels, "digests": digests}))
    tick(len(samples))
    return made


def weights_digest(pipe: Any) -> str:
    """A hash of every weight of the pipeline, so that a retrained model is never confused with its elder."""
    digest = hashlib.sha256()
    for _, module in sorted((n, m) for n, m in pipe.components.items() if isinstance(m, torch.nn.Module)):
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _surroundings(pipe: Any) -> str:
    """What else decides the last bit."""
    from importlib.metadata import version

    settings = json.dumps(dict(pipe.scheduler.config), sort_keys=True, default=str)
    scheduler = f"{type(pipe.scheduler).__name__} {settings}"
    versions = f"torch {torch.__version__} diffusers {version('diffusers')} transformers {version('transformers')}"
    denoiser = pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer
    machine = torch.cuda.get_device_name() if pipe.device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"{versions} {pipe.device} {denoiser.dtype} {machine} {torch.get_num_threads()} threads {scheduler}"


def _make(pipe: Any, samples: Sequence[Sample], recipe: Recipe) -> Pictures:
    made = pipe(
        [s.prompt for s in samples],
        num_inference_steps=recipe.steps,
        guidance_scale=recipe.guidance,
        generator=[torch.Generator("cpu").manual_seed(s.seed) for s in samples],
        output_type="pt",
    ).images
    exact = made.detach().float().cpu().contiguous()
    digests = [hashlib.sha256(image.numpy().tobytes()).hexdigest()[:32] for image in exact]
    return Pictures((exact * 255).round().clamp(0, 255).to(torch.uint8), digests)


def batches(samples: Sequence[Sample], size: int) -> list[Sequence[Sample]]:
    """What is drawn together."""
    return [samples[i : i + size] for i in range(0, len(samples), size)]


def joined(parts: Sequence[Pictures]) -> Pictures:
    """One after the other."""
    if not parts:
        return Pictures(torch.zeros(0, 3, 1, 1, dtype=torch.uint8), [])
    return Pictures(torch.cat([p.pixels for p in parts]), [d for p in parts for d in p.digests])


def save_png(pixels: Tensor, path: Path) -> None:
    """One picture, uint8 [3, height, width], as PNG."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()).save(path)
