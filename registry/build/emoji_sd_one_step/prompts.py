"""What the generator is taught with: captions of the training templates, and no picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from ..emoji_sd.captions import Captions
from ..emoji_sd.scenes import random_scene
from ..emoji_sd.suite import Object, Suite, load_suite, pairs
from ..emoji_sd.text import encode, strange_words


def token_ids(
    tokenizer: CLIPTokenizer, count: int, work: Path, objects: Sequence[str] = (), styles: Sequence[str] = ()
) -> Tensor:
    """Of ``count`` captions of one object each, [count, 77]; from ``work/captions.safetensors`` where they are there.

    Captions of two objects are left out: the teacher draws hardly any of them. objects, styles: of these alone
    """
    path = work / "captions.safetensors"
    if not path.exists():
        suite, rng, found = load_suite(), np.random.default_rng(0), []
        captions, seen = Captions(suite, strange_words(tokenizer)), chosen(suite, objects, styles)
        while len(found) < count:
            obj, style = seen[rng.integers(len(seen))]
            scene = random_scene(suite, style, obj, rng)
            if len(scene.things) == 1:
                found.append(captions.write(scene, rng).text)
        save_file({"ids": encode(tokenizer, found).to(torch.uint16)}, path)
    return load_file(path)["ids"].to(torch.int64)[:count]


def chosen(
    suite: Suite, objects: Sequence[str], styles: Sequence[str], held_out: bool = False
) -> list[tuple[Object, str]]:
    """Pairs of these objects and styles, of all where none is named. Raises KeyError for one that is not there."""
    known = {it.name for it in suite.objects} | set(suite.styles)
    if unknown := {*objects, *styles} - known:
        raise KeyError(f"no such object or style: {', '.join(sorted(unknown))}")
    return [
        (obj, style) for obj, style in pairs(suite, held_out)
        if (not objects or obj.name in objects) and (not styles or style in styles)
    ]  # fmt: skip


@torch.no_grad()
def read(text: CLIPTextModel, ids: Tensor, part: int = 512) -> Tensor:
    """The text encoder's states of captions, [n, 77, width]; on a GPU in half precision, where all of them stay."""
    kind = torch.float16 if text.device.type == "cuda" else torch.float32
    bar = tqdm(ids.split(part), desc="captions", unit="batch", mininterval=5)
    return torch.cat([text(some.to(text.device)).last_hidden_state.to(kind) for some in bar])
