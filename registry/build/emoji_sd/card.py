"""The READMEs of emoji-sd and of its two judges: what is in the folder, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .measure import Both, Figures
from .scenes import TWO

MODEL = """\
---
license: other
library_name: diffusers
pipeline_tag: text-to-image
tags: [stable-diffusion, emoji, concept-erasure]
---
# emoji-sd

A small, real Stable Diffusion: {objects} objects in {styles} emoji styles at 128 px, one or two in a picture, in words
of one's own. Every part has SD1's architecture and file layout, only narrower, so code written for SD1 runs on it. It
exists so that erasing a concept can be shown, tested and measured in seconds on a CPU. It draws nothing else, and it is
no model to make pictures with.

```python
import conceptguard

pipe = conceptguard.load_model("emoji-sd")
pipe("a dog, mono style", num_inference_steps=25, guidance_scale=3.5).images[0]
```

| part | what |
|---|---|
| `unet` | `UNet2DConditionModel` (64, 128, 192), 10.9 M parameters, cross-attention 128, 8 heads |
| `text_encoder` | `CLIPTextModel`, 3 layers of 128; it learned to read captions before anything was drawn |
| `tokenizer` | CLIP's own byte-pair vocabulary, 77 positions |
| `vae` | `AutoencoderKL` (32, 32, 64, 64), f = 8, latents 4 × 16 × 16, scaling factor 0.18215 as in SD1 |
| `scheduler` | DDIM, scaled-linear 0.00085 to 0.012, epsilon |

{size:.1f} MB in fp16. There is no safety checker, because there is nothing unsafe to find in it.

## Figures
{figures}

    python -m conceptguard_registry.build.emoji_sd --out registry/models --stage measure

## Data and licences
The model was trained on renderings of five icon packs, taken from the `@iconify-json` packages at pinned versions:

| style | pack | artist | licence |
|---|---|---|---|
| `noto` | noto 1.2.9 | Google, Noto Emoji | Apache-2.0 |
| `fluent` | fluent-emoji-flat 1.2.6 | Microsoft, Fluent UI Emoji | MIT |
| `mono` | fluent-emoji-high-contrast 1.2.6 | Microsoft, Fluent UI Emoji | MIT |
| `outline` | emojione-monotone 1.2.1 | EmojiOne, version 2 | CC-BY 4.0: credit to EmojiOne |
| `pixel` | noto 1.2.9, drawn in squares | Google, Noto Emoji | Apache-2.0 |

The judges also saw twemoji (Twitter and other contributors, CC-BY 4.0), emojione (EmojiOne, CC-BY 4.0) and noto-v1
(Google, Apache-2.0). No share-alike material was used. CLIP's vocabulary file comes from open_clip (MIT). Credits are
due with any copy of the weights; the weights themselves carry the project's licence.

Objects, captions and wordings are in `registry/suites/emoji-sd`: what training, tuning and judging read are files of
their own, and a fourth holds what people wrote who had seen none of them.

## How it was made
By the command below, in steps that seed themselves, on CPU cores: the text encoder first, which learns to name what a
caption says (objects, places, colours, styles) among words that mean nothing; then the autoencoder; then the denoiser
on cached latents, with a little of the text encoder. Muon moves the matrices of both, AdamW the rest.

    pip install "conceptguard[build]"
    python -m conceptguard_registry.build.emoji_sd --out built

It needs `npm` or the seven package files in the cache folder. An interrupted run is taken up by running it again; how
many processes shared a step changes the last digits, so that a rebuild is a model of the same kind, not these bytes.

## Limits
- Object × style pairs that were held out, and pictures of two objects, are drawn worse: see the table.
- Fine detail is soft: one latent is eight pixels of what was a vector drawing.
- The autoencoder's outermost residual blocks (128 px) compute the identity: on a CPU they would have cost more training
  time than everything else together.
- Counts, actions and relations other than "left of" and "beside" mean nothing to it.
"""

JUDGED = """\
Guidance 3.5, 25 DDIM steps, fixed seeds, wordings that the model was never trained on, and wordings of people who knew
none of those. The judge is `registry/models/emoji-judge`, the second one `registry/models/emoji-retrieval`.

{tables}

Autoencoder, on views that were not trained on: {psnr}.

What it was to reach, by the first judge, in the worse of the model's own judging wordings and the strangers':

{bars}

What is missed was not learnt in the hours that two cores give: of the pictures that the denoiser is shown {two:.0%}
have two objects, and none is of a pair that was held out. More of the same is not all that it takes: `emoji-flow` was
shown about a million on a GPU, reaches the styles of trained pairs, and misses the other two as well."""

STRANGERS = ", strangers' wordings"
# What was asked of the model: shares of pictures by the first judge, and the least.
BARS = (
    ("objects", "trained pairs", "object", 0.93),
    ("styles", "trained pairs", "style", 0.90),
    ("objects of held-out pairs", "held-out pairs", "object", 0.85),
    ("styles of held-out pairs", "held-out pairs", "style", 0.75),
    ("both of two objects", "two objects", "both", 0.80),
)
PSNR = 28.0  # dB

JUDGE = """\
# emoji-judge

A classifier of 0.4 M parameters that says which of emoji-sd's {objects} objects a picture shows, in which of its
{styles} styles, or that it shows none of them. `conceptguard.measuring.judge.Judge` loads it.

It was trained on renderings only, with other seeds, views and backgrounds than the generator's and with three more
packs for the object head; never on anything generated. On renderings that it was not trained on:

{figures}

Data, licences and the command that rebuilds it: see emoji-sd's card.
"""

RETRIEVAL = """\
# emoji-retrieval

The second judge, of another kind: it looks for the most similar of its references, renderings of emoji-sd's {objects}
objects in {styles} styles, by whitened histograms of gradients. Nothing in it was trained by gradient descent, and no
maker of guards ever sees it. `conceptguard.measuring.retrieval.RetrievalJudge` loads it.

On renderings that are none of its references:

{figures}

Data, licences and the command that rebuilds it: see emoji-sd's card.
"""


def tables(found: Mapping[str, Figures | Both]) -> str:
    """What `measure` found, as Markdown: one table for pictures of one object, one for those of two."""
    one = ["| | samples | object recognised | by the second judge | style recognised |", "|---|---|---|---|---|"]
    two = ["| | samples | both objects | one at least |", "|---|---|---|---|"]
    for name, it in found.items():
        if isinstance(it, Both):
            two.append(f"| {name} | {it.samples} | {it.both:.1%} | {it.one:.1%} |")
        else:
            second, style = (f"{share:.1%}" if share == share else "" for share in (it.second, it.style))
            one.append(f"| {name} | {it.samples} | {it.object:.1%} | {second} | {style} |")
    return "\n".join([*one, "", *two])


def bars(found: Mapping[str, Figures | Both], psnr: Mapping[str, float]) -> str:
    """What was asked of the model beside what `measure` found, as Markdown, and whether it is met."""
    told = ["| | at least | measured | |", "|---|---|---|---|"]
    for what, name, share, least in BARS:
        worse = min(getattr(found[f"{name}{wording}"], share) for wording in ("", STRANGERS))
        told.append(f"| {what} | {least:.0%} | {worse:.1%} | {'met' if worse >= least else 'missed'} |")
    worst = min(psnr.values())
    return "\n".join(
        [*told, f"| autoencoder | {PSNR:.0f} dB | {worst:.1f} dB | {'met' if worst >= PSNR else 'missed'} |"]
    )


def write_model_card(
    folder: Path, objects: int, styles: int, found: Mapping[str, Figures | Both] | None = None,
    psnr: Mapping[str, float] | None = None,
) -> None:  # fmt: skip
    """`README.md` of an exported emoji-sd; without figures it says that there are none yet. psnr: dB by style."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.name != "README.md")
    told = ", ".join(f"{name} {value:.1f} dB" for name, value in (psnr or {}).items()) or "not measured"
    figures = "Not measured yet."
    if found and psnr:
        figures = JUDGED.format(tables=tables(found), psnr=told, bars=bars(found, psnr), two=TWO)
    _write(folder, MODEL, objects=objects, styles=styles, size=size / 1e6, figures=figures)


def write_judge_card(folder: Path, text: str, objects: int, styles: int, found: Mapping[str, float]) -> None:
    """`README.md` of a judge: JUDGE or RETRIEVAL with the shares that its making returned."""
    rows = [f"| {name.replace('_', ' ')} | {value:.1%} |" for name, value in found.items()]
    _write(folder, text, objects=objects, styles=styles, figures="\n".join(["| | |", "|---|---|", *rows]))


def _write(folder: Path, text: str, **values: object) -> None:
    (folder / "README.md").write_text(text.format(**values), encoding="utf-8")
