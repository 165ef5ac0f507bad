"""Teach the text encoder what captions speak of, before anything is drawn.

Stable Diffusion's text encoder comes trained, from pairs of captions and pictures. Ours learns the part of it that
matters here: to find in any wording which objects, style, ground, colour and place are asked for. Linear readouts of
its last states name them, and are thrown away afterwards. Without this, most of the diffusion training goes by before
the first object can be recognised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from . import models, processes
from .captions import Caption, Captions
from .scenes import COLOURS, TINTS, Scene, random_scene
from .suite import Suite, pairs


@dataclass(frozen=True)
class TextRecipe:
    steps: int = 3000
    batch: int = 96
    lr: float = 1e-3
    warmup: int = 200
    states: int = 3  # states read beside the end token's, anywhere in the padding
    seed: int = 0
    save_every: int = 500


def strange_words(tokenizer: CLIPTokenizer) -> list[str]:
    """Every word that the vocabulary has whole."""
    return sorted(t[:-4] for t in tokenizer.get_vocab() if re.fullmatch(r"[a-z]{2,}</w>", t))


class Readouts(nn.Module):
    """What a state of the text encoder says of a scene: logits of each head, [n, classes]."""

    def __init__(self, suite: Suite):
        super().__init__()
        self.objects = {it.name: i for i, it in enumerate(suite.objects)}
        n = len(self.objects)
        self.names = {
            "style": [*suite.styles, None],
            "tint": [*TINTS, None],
            "colour": [*COLOURS, None],
            "size": ["small", "turned", None],
        }
        sizes = {"present": n, "left": n + 1, "right": n + 1, **{k: len(v) for k, v in self.names.items()}}
        self.heads = nn.ModuleDict({name: nn.Linear(models.HIDDEN, size) for name, size in sizes.items()})

    def targets(self, scenes: list[Scene], captions: list[Caption]) -> dict[str, Tensor]:
        """What the captions say: `present` [n, objects] of 0 and 1, class indices [n] for all other heads."""
        none = len(self.objects)
        present = torch.zeros(len(scenes), none)
        said: dict[str, list[int]] = {name: [] for name in self.heads if name != "present"}
        for i, (scene, caption) in enumerate(zip(scenes, captions, strict=True)):
            told = bool(caption.text)
            places = [self.objects[thing.object.name] for thing in scene.things]
            if told:
                present[i, places] = 1.0
            said["left"].append(places[0] if caption.placed else none)
            said["right"].append(places[1] if caption.placed else none)
            first = scene.things[0]
            size = "small" if first.small else "turned" if first.turned else None
            for name, value in (("tint", scene.tint), ("colour", first.colour), ("size", size)):
                said[name].append(self.names[name].index(value if told else None))
            said["style"].append(self.names["style"].index(scene.style if caption.styled else None))
        return {"present": present, **{name: torch.tensor(each) for name, each in said.items()}}

    def loss(self, states: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """States [n, k, hidden], all k of which are to say the same."""
        k = states.shape[1]
        total = states.new_zeros(())
        for name, head in self.heads.items():
            logits, wanted = head(states).flatten(0, 1), targets[name].repeat_interleave(k, 0)
            if name == "present":
                # One or two of many: a softmax over them, so that no object is drowned by those that are absent.
                known = wanted.sum(1) > 0
                share = wanted[known] / wanted[known].sum(1, keepdim=True)
                total = total + F.cross_entropy(logits[known], share)
            else:
                total = total + F.cross_entropy(logits, wanted)
        return total


def token_embedding(text: CLIPTextModel) -> nn.Embedding:
    return next(m for name, m in text.named_modules() if name.endswith("token_embedding"))


def read_states(text: CLIPTextModel, ids: Tensor, extra: int, gen: torch.Generator) -> Tensor:
    """The end token's state and `extra` of the padding behind it (or that again), [n, 1 + extra, hidden]."""
    states = text(ids).last_hidden_state
    end = (ids == models.EOS).int().argmax(1)
    room = (ids.shape[1] - end).float()
    at = end[:, None] + (torch.rand(len(ids), extra, generator=gen) * room[:, None]).long()
    at = torch.cat([end[:, None], at], 1)
    return states.gather(1, at[..., None].expand(-1, -1, states.shape[-1]))


def train_text(suite: Suite, tokenizer: CLIPTokenizer, recipe: TextRecipe, work: Path) -> CLIPTextModel:
    """A text encoder that knows the suite's words; resumes from `work/text.pt` if it is there."""
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    text, readouts = models.make_text_encoder().to(device), Readouts(suite).to(device)
    if device.type == "cpu":
        text.set_attn_implementation("eager")
    embedding = token_embedding(text)
    embedding.sparse = True  # a step meets a few hundred of 49,408 words
    rest = [p for p in [*text.parameters(), *readouts.parameters()] if p is not embedding.weight]
    optims = [
        torch.optim.AdamW(rest, recipe.lr, betas=(0.9, 0.99)),
        torch.optim.SparseAdam([embedding.weight], recipe.lr),
    ]
    step, path = 0, work / "text.pt"
    if path.exists():
        saved = torch.load(path, map_location=device, weights_only=True)
        text.load_state_dict(saved["text"]), readouts.load_state_dict(saved["readouts"])
        for optim, state in zip(optims, saved["optims"], strict=True):
            optim.load_state_dict(state)
        step = saved["step"]

    def save() -> None:
        states = [optim.state_dict() for optim in optims]
        processes.save(dict(text=text.state_dict(), readouts=readouts.state_dict(), optims=states, step=step), path)

    captions, seen = Captions(suite, strange_words(tokenizer)), pairs(suite, held_out=False)
    losses: list[float] = []
    bar = tqdm(total=recipe.steps, initial=step, desc="text", unit="step", mininterval=5)
    while step < recipe.steps:
        rate = min(1.0, (step + 1) / recipe.warmup, 0.01 + 1.5 * (1 - step / recipe.steps))
        for optim in optims:
            for group in optim.param_groups:
                group["lr"] = recipe.lr * rate
        rng, gen = np.random.default_rng((recipe.seed, step)), torch.Generator().manual_seed(step)
        chosen = [seen[i] for i in rng.integers(len(seen), size=recipe.batch)]
        scenes = [random_scene(suite, style, obj, rng) for obj, style in chosen]
        texts = [captions.write(scene, rng) for scene in scenes]
        # Nearly every caption fits into 48 places; the others are padding, which every fourth step trains.
        ids = encode(tokenizer, [each.text for each in texts], 77 if step % 4 == 0 else 48)
        targets = {name: each.to(device) for name, each in readouts.targets(scenes, texts).items()}
        with torch.autocast(device.type, torch.bfloat16):
            states = read_states(text, ids.to(device), recipe.states, gen)
        loss = readouts.loss(states.float(), targets)
        for optim in optims:
            optim.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(rest, 1.0)
        for optim in optims:
            optim.step()
        step += 1
        losses.append(loss.item())
        bar.update()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}")
        if step % recipe.save_every == 0 or step == recipe.steps:
            save()
    bar.close()
    embedding.sparse = False
    return text.cpu()


def encode(tokenizer: CLIPTokenizer, texts: list[str], length: int = 77) -> Tensor:
    """Token ids [n, length], padded with the end token."""
    return tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
