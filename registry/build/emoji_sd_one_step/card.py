"""The model's README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from conceptguard.files.header import read_header
from conceptguard.hosts.diffusers.sibling import CHANGE

from ..emoji_sd.measure import Figures

CARD = """\
---
license: other
library_name: diffusers
pipeline_tag: text-to-image
tags: [stable-diffusion, one-step, distillation, emoji, concept-erasure]
---
# emoji-sd-one-step

emoji-sd, distilled into a generator of one step without guidance: what guards and makers do to such models is tried on
it. The folder holds the change of emoji-sd's weights, a LoRA of rank {rank} ({size:.1f} MB in fp16), and its schedule;
`load_model` puts them together. It is no model to make pictures with.

It draws {drawn}. It was taught nothing else.

```python
import conceptguard

pipe = conceptguard.load_model("emoji-sd-one-step")
pipe("a dog, noto style", num_inference_steps=1, guidance_scale=1.0).images[0]
```

## Figures
The same wordings and seeds for both: one step without guidance here, 25 DDIM steps at guidance 3.5 of its teacher. The
judge is `registry/models/emoji-judge`, the second one `registry/models/emoji-retrieval`; neither took part in training.

| | samples | object recognised | by the second judge | style recognised | teacher: object | second | style |
|---|---|---|---|---|---|---|---|
{rows}

A picture takes {seconds:.3f} s on one CPU core, the teacher's {slow:.3f} s.

    python -m conceptguard_registry.build.emoji_sd_one_step --stage measure \
        {options}

## How it was made
From emoji-sd and captions of the training templates; no picture was looked at. First it was taught what the
teacher draws from the same noise, by mean squares; then by distribution matching (Yin et al., CVPR 2024) beside
that.

    python -m conceptguard_registry.build.emoji_sd_one_step --out built \
        {options}

## Licences
Those of [emoji-sd](../emoji-sd/README.md).

## Limits
- It knows one noise level. In more steps, or with a schedule of its own, it draws nothing better.
- What the teacher draws of two objects at once was not distilled: it does so hardly ever.
"""


def shares(found: Figures) -> str:
    """Three cells."""
    return f"{found.object:.1%} | {found.second:.1%} | {found.style:.1%}"


def write_card(folder: Path, rows: Sequence[str], drawn: str, options: str, seconds: float, slow: float) -> None:
    """`README.md` of the exported model. drawn: what it knows; options: of the command that made it; seconds, slow: CPU
    seconds of a picture, its own and the teacher's"""
    rank, size = read_header(folder / CHANGE).metadata["rank"], (folder / CHANGE).stat().st_size / 1e6
    text = CARD.format(
        rank=rank, size=size, rows="\n".join(rows), drawn=drawn, options=options, seconds=seconds, slow=slow
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
