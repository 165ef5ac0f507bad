"""The model's README: what is in the folder, and what the judge read in its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..emoji_sd.card import tables
from ..emoji_sd.measure import Both, Figures

CARD = """\
---
license: other
library_name: diffusers
pipeline_tag: text-to-image
tags: [stable-diffusion-3, rectified-flow, emoji, concept-erasure]
---
# emoji-flow

A small, real Stable Diffusion 3: the objects and styles of emoji-sd at 128 px, drawn by a transformer along rectified
flows. Every part has SD 3's architecture and file layout, only narrower, so that guards, makers and attacks for this
family are judged on pictures. It draws nothing else, and it is no model to make pictures with.

```python
import conceptguard

pipe = conceptguard.load_model("emoji-flow")
pipe("a dog, mono style", num_inference_steps=25, guidance_scale=3.5).images[0]
```

Without conceptguard: `StableDiffusion3Pipeline.from_pretrained(FOLDER, text_encoder_3=None, tokenizer_3=None)`.

| part | what |
|---|---|
| `transformer` | `SD3Transformer2DModel`: 4 blocks of 4 heads of 64, patches of 2; q and k normalised as in SD 3.5 |
| `text_encoder` | `CLIPTextModelWithProjection`, 4 layers of 128: emoji-sd's, trained on; projects by the identity |
| `text_encoder_2` | `CLIPTextModelWithProjection`, 3 layers of 32 |
| `text_encoder_3` | none: T5's vocabulary alone would be larger than all else |
| `vae` | `AutoencoderKL`, f = 8: emoji-sd's, its latents spread over 16 × 16 × 16 with SD 3's shift and scale |
| `scheduler` | `FlowMatchEulerDiscreteScheduler`, shift 3 |

{size:.1f} MB in fp16. In place of T5's tokens diffusers has 256 zeros and ComfyUI has none; the model was trained with
both, and with other numbers. There is no safety checker, because there is nothing unsafe to find in it.

## Figures
{figures}

    python -m conceptguard_registry.build.emoji_flow --stage measure

## How it was made
In seven minutes on one GPU, with about a million pictures out of 82,000 views, a third of which show two objects:

    python -m conceptguard_registry.build.emoji_flow --views 128 --two 0.35 --batch 512 --minutes 4.2

Without these options it is trained to a quarter of that, in hours on two cores. Two objects in one picture, and
held-out pairs of object and style, are drawn worse than the rest: see the figures.

## Data and licences
Those of [emoji-sd](../emoji-sd/README.md), whose pictures and captions it was trained on.
"""
JUDGED = """\
Guidance 3.5, 25 steps, fixed seeds, wordings that the model was never trained on, and wordings of people who knew none
of those. The judges are emoji-sd's.

{tables}"""


def write_card(folder: Path, found: Mapping[str, Figures | Both] | None = None) -> None:
    """`README.md` in an exported model's folder; without figures it says that there are none yet."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.name != "README.md")
    figures = JUDGED.format(tables=tables(found)) if found else "Not measured yet."
    (folder / "README.md").write_text(CARD.format(size=size / 1e6, figures=figures), encoding="utf-8")
