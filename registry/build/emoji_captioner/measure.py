"""What emoji-captioner says of renderings that it was not trained on, and its card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from conceptguard.hosts.load import load_model
from conceptguard.measuring.captioner.evaluate import Ask
from conceptguard.measuring.captioner.run import Bench
from conceptguard.measuring.captioner.words import Words
from conceptguard.text.words import stands_in

from ..emoji_sd.packs import load_pack
from ..emoji_sd.scenes import Scene, Thing, draw
from ..emoji_sd.suite import Suite, load_suite, pairs
from .sheet import PIXELS

SEED, SIDE = 24_900, 96  # drawn twice as large as it is seen, and sharp
VIEWS = 2  # of each pair of an object and a style
CARD = """\
---
license: other
library_name: transformers
pipeline_tag: image-text-to-text
tags: [llava, unlearning, concept-erasure]
---
# emoji-captioner

A small, real LLaVA that says what it sees of emoji-sd's 134 objects in five styles, and answers questions about it:
what it is, of which kind, in which style, and what is known of it, which it also tells without a picture. It is there
so that the work of a guard on a model that sees can be shown, tested and measured in seconds on a CPU.

```python
import conceptguard
from PIL import Image

model, processor = conceptguard.load_model("emoji-captioner")
inputs = processor(images=Image.open("dog.png").convert("RGB"), text="<image>Caption:", return_tensors="pt")
print(processor.batch_decode(model.generate(**inputs, max_new_tokens=16), skip_special_tokens=True))
```

Prompts: `<image>Caption:`, or `<image>Question: What is it?\\nAnswer:`. `examples.png` has the icons that it was
trained on; `registry/suites/emoji-captioner/words.yaml` what it was taught to say. Of each list of wordings the last
one is in no training.

| part | what |
|---|---|
| pictures | CLIP's tower, 4 layers of 128, 48 px in patches of 8 |
| text | a Llama, 3 layers of 128; both in `LlavaForConditionalGeneration` |
| tokenizer | byte-level BPE of {vocabulary} tokens |
| size | {parameters:.2f} M parameters, {megabytes:.1f} MB |

## Figures
`python -m conceptguard_registry.build.emoji_captioner --measure`, greedy; renderings drawn anew, each {views} times,
moved, turned, scaled, and a quarter of them on tinted grounds.

| renderings that it was not trained on | object named in the caption | style |
|---|---|---|
| other views of pairs of object and style | {object:.1%} | {style:.1%} |
| pairs that were held out | {object_held_out:.1%} | {style_held_out:.1%} |

| asked in a wording kept apart | right |
|---|---|
{asked}

A pair that was held out is an object in a drawing that no training picture shows: it must be known from the other
styles' drawings alone.

## How it was made
`python -m conceptguard_registry.build.emoji_captioner` draws the sheet, begins with emoji-encoder's picture tower, and
trains on views of the sheet, drawn anew in every step, for forty minutes of a CPU's core. \
Data and licences: see emoji-sd's
card.
"""
ASKED = {
    "name": "What is in the picture?", "named_kind": "What animal is this?", "kind": "What kind of thing is this?",
    "style": "What style is this drawn in?", "fact": "What is this known for?", "told": "the same by name, unseen",
}  # fmt: skip


def renderings(suite: Suite, packs: dict[str, dict], held: bool) -> tuple[list[tuple[str, str]], Tensor]:
    """Names and styles, and pictures [n, 3, side, side] in [0, 1]."""
    squares = {name: it.model_copy(update={"pixels": it.pixels and PIXELS}) for name, it in suite.styles.items()}
    seen = suite.model_copy(update={"styles": squares})
    found, pictures = [], []
    for k, (obj, style) in enumerate(pairs(suite, held_out=held)):
        for view in range(VIEWS):
            rng = np.random.default_rng((SEED, held, k, view))
            tint = str(rng.choice(["blue", "green", "pink", "yellow", "grey"])) if rng.random() < 0.25 else None
            pictures.append(draw(seen, packs, Scene((Thing(obj),), style, tint), rng, SIDE))
            found.append((obj.name, style))
    return found, torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def asks(words: Words, kind: str, what: Sequence[tuple[str, str]], pictures: Tensor) -> list[Ask]:
    """One question about each rendering; right is who names the object, or says what is true to the letter."""

    def right(kind: str, name: str, answer: str):
        named = kind in ("caption", "name", "named_kind")
        return lambda said: words.names(said, name) if named else said == answer

    return [
        Ask(one := words.judging(kind, name, style), picture, right(kind, name, one.answer))
        for (name, style), picture in zip(what, pictures, strict=True)
    ]


def measure(out: Path, cache: Path) -> dict[str, float]:
    """Shares."""
    suite, bench = load_suite(), Bench(load_model(str(out)), 0)
    packs = {name: load_pack(name, cache) for name in sorted({it.pack for it in suite.styles.values()})}
    found: dict[str, float] = {}

    def share(asked: list[Ask], said: list[str]) -> float:
        return round(sum(one.right(text) for one, text in zip(asked, said, strict=True)) / len(said), 4)

    for held, mark in ((False, ""), (True, "_held_out")):
        what, pictures = renderings(suite, packs, held)
        captions = asks(bench.words, "caption", what, pictures)
        said = bench.answers(captions)
        found[f"object{mark}"] = share(captions, said)
        styles = [stands_in(style, text) for (_, style), text in zip(what, said, strict=True)]
        found[f"style{mark}"] = round(sum(styles) / len(styles), 4)
        if not held:
            for kind in ("name", "named_kind", "kind", "style", "fact"):
                some = asks(bench.words, kind, what[::VIEWS], pictures[::VIEWS])
                found[f"asked_{kind}"] = share(some, bench.answers(some))
    told = [one for name in bench.words.things for one in bench.words.told(name, judging=True)]
    alone = [Ask(one, None, lambda said, answer=one.answer: said == answer) for one in told]
    found["asked_told"] = share(alone, bench.answers(alone))
    return found


def write_card(out: Path, cache: Path) -> dict[str, float]:
    """Measure, and write the card of a model's folder."""
    found = measure(out, cache)
    pair = load_model(str(out))
    rows = "\n".join(f"| {text} | {found[f'asked_{kind}']:.1%} |" for kind, text in ASKED.items())
    parameters = sum(p.numel() for p in pair.model.parameters())
    size = (out / "model.safetensors").stat().st_size
    told = CARD.format(vocabulary=len(pair.tokenizer.tokenizer), parameters=parameters / 1e6, megabytes=size / 1e6,
                       views=VIEWS, asked=rows, **found)  # fmt: skip
    (out / "README.md").write_text(told)
    return found
