"""Whether what is drawn from a picture and an empty prompt is what is in the picture, by plain diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from conceptguard import load_model
from conceptguard.measuring.judge import Judge

from ..emoji_sd.measure import GUIDANCE, Sample, generate, pair_samples
from ..emoji_sd.suite import load_suite, pairs

SEED, STEPS = 8_800_000, 15
MODELS = Path(__file__).resolve().parents[2] / "models"
CARD = """\
# emoji-adapter

Pictures as prompts of emoji-sd: an IP-Adapter of the plain kind, of four tokens, and in `image_encoder` the CLIP that
it reads pictures by. `make co_erasing` describes concepts with it. Plain diffusers takes both:

```python
folder = "registry/models/emoji-adapter"
pipe.load_ip_adapter(folder, subfolder="", weight_name="ip_adapter.safetensors", image_encoder_folder="image_encoder")
pipe("", ip_adapter_image=picture).images[0]
```

## Figures
Of {n} pictures that emoji-sd drew of objects in styles at random, and that nothing was trained on. Each stands behind
an empty prompt, in {steps} steps at guidance {guidance}; `registry/models/emoji-judge` names what is drawn.

| | the object | the style |
|---|---|---|
| the picture itself is named | {own_object:.1%} | {own_style:.1%} |
| what is drawn from it is named so | {object:.1%} | {style:.1%} |
| what is drawn is named as the picture is | {same:.1%} | {same_style:.1%} |
| control: from the next picture | {other:.1%} | {other_style:.1%} |

## How it was made
Of renderings, and of what emoji-sd says of their captions; no judge took part. emoji-encoder's tower was taught for
five minutes of CPU time to tell by one matrix what is in a picture, and for four to say by the adapter's own matrix
states of its caption: those of the object, the style and the end. Keys and values were then solved layer by layer, so
that beside the empty prompt each layer adds what its caption would have changed; no gradient went through the denoiser.

    python -m conceptguard_registry.build.emoji_adapter

## Licences
Those of [emoji-sd](../emoji-sd/README.md).

## Limits
- One object in a picture. Of two, it was taught nothing.
- Grounds and colours are told by one token, with all else that a caption says.
"""


def write_card(folder: Path, n: int = 48) -> None:
    """README.md of an adapter's folder."""
    pipe, judge = load_model("emoji-sd"), Judge.load(MODELS / "emoji-judge")
    found = shares(pipe, judge, folder, n)
    (folder / "README.md").write_text(CARD.format(n=n, steps=STEPS, guidance=GUIDANCE, **found), encoding="utf-8")
    print(found)


def shares(pipe: Any, judge: Judge, folder: Path, n: int) -> dict[str, float]:
    """Of objects and styles, see the card."""
    suite = load_suite()
    every = pairs(suite, held_out=False)
    chosen = [every[i] for i in np.random.default_rng(SEED).choice(len(every), n, replace=False)]
    samples = pair_samples(chosen, suite.tuning_templates, 1, SEED)
    shown = generate(pipe, samples, GUIDANCE, STEPS)
    before = pipe.feature_extractor
    pipe.register_modules(feature_extractor=None)  # another adapter's may be left, of its own size
    try:
        pipe.load_ip_adapter(str(folder.resolve()), subfolder="", weight_name="ip_adapter.safetensors",
                             image_encoder_folder="image_encoder")  # fmt: skip
        drawn = from_pictures(pipe, shown, samples)
    finally:
        pipe.unload_ip_adapter()
        pipe.register_modules(feature_extractor=before)
    own, said = judge.judge(shown), judge.judge(drawn)
    told = {"object": [it.name for it, _ in chosen], "style": [style for _, style in chosen]}
    found = {}
    for axis, end in (("object", ""), ("style", "_style")):
        a, b, right = getattr(own, f"{axis}s"), getattr(said, f"{axis}s"), told[axis]
        found[f"own_{axis}"], found[axis], found[f"same{end}"] = _share(a, right), _share(b, right), _share(a, b)
        found[f"other{end}"] = _share(b[1:] + b[:1], right)
    return found


def from_pictures(pipe: Any, shown: Tensor, samples: list[Sample]) -> Tensor:
    """What an empty prompt and each picture [n, 3, h, w] in [0, 1] give, with seeds behind those of the samples.

    One at a time: diffusers lets every prompt of a call see all pictures of it.
    """
    found = []
    for picture, sample in zip((shown * 255).round().byte().permute(0, 2, 3, 1).numpy(), samples, strict=True):
        out = pipe(
            "", ip_adapter_image=Image.fromarray(picture), num_inference_steps=STEPS, guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(sample.seed + len(shown)), output_type="np",
        )  # fmt: skip
        found.append(torch.from_numpy(out.images).permute(0, 3, 1, 2))
    return torch.cat(found)


def _share(some: list[str], others: list[str]) -> float:
    return float(np.mean([a == b for a, b in zip(some, others, strict=True)]))
