"""What the generator is taught with: captions of the training templates, and no picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from ..emoji_sd.captions import Captions
from ..emoji_sd.scenes import random_scene
from ..emoji_sd.suite import load_suite, pairs
from ..emoji_sd.text import encode, strange_words


def token_ids(tokenizer: CLIPTokenizer, count: int, seed: int, work: Path) -> Tensor:
    """Of ``count`` captions of one object each, [count, 77]; from ``work/captions.safetensors`` where they are there.

    Captions of two objects are left out: the teacher draws hardly any of them.
    """
    path = work / "captions.safetensors"
    if not path.exists():
        suite, rng, found = load_suite(), np.random.default_rng(seed), []
        captions, seen = Captions(suite, strange_words(tokenizer)), pairs(suite, held_out=False)
        while len(found) < count:
            obj, style = seen[rng.integers(len(seen))]
            scene = random_scene(suite, style, obj, rng)
            if len(scene.things) == 1:
                found.append(captions.write(scene, rng).text)
        save_file({"ids": encode(tokenizer, found).to(torch.uint16)}, path)
    return load_file(path)["ids"].to(torch.int64)[:count]


@torch.no_grad()
def read(text: CLIPTextModel, ids: Tensor, part: int = 512) -> Tensor:
    """The text encoder's states of captions, [n, 77, width]; on a GPU in half precision, where all of them stay."""
    kind = torch.float16 if text.device.type == "cuda" else torch.float32
    bar = tqdm(ids.split(part), desc="captions", unit="batch", mininterval=5)
    return torch.cat([text(some.to(text.device)).last_hidden_state.to(kind) for some in bar])
