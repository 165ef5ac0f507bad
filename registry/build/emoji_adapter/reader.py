"""What an adapter reads pictures by: emoji-encoder's own tower, taught on until one matrix says a picture's caption.

An adapter of the plain kind has one matrix between what is read and its tokens. By one matrix the tower as it is names
six of ten things: CLIP wants rows to lie apart by angles, and pictures of one thing are spread. So it is taught twice
more. First heads, which are thrown away, tell by one matrix each what is in a picture. Then tower and the adapter's
matrix learn together: the tokens are to be the caption's states, and the thing's nearer to its own than to all others'.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ..emoji_encoder.model import MEAN, SIZE, SPREAD
from ..emoji_encoder.teach import SIDE, pixel_values
from ..emoji_sd.judge import augment
from ..emoji_sd.optimise import Optimiser
from ..emoji_sd.scenes import COLOURS, TINTS, Scene, Thing
from ..emoji_sd.suite import Suite
from .wanted import TOKENS, States

SURE = 20.0  # how far apart two things of usual distance are, in logits


@dataclass(frozen=True)
class Recipe:
    """minutes: of CPU time, after which the last step is made, whatever had been planned; lr, adam_lr: of Muon, and of
    Adam beside it"""

    minutes: float
    lr: float
    seed: int
    adam_lr: float = 1e-3
    batch: int = 128


NAMED, TOLD = Recipe(5.0, 0.01, 96_000), Recipe(4.0, 0.006, 17)
WEIGHTS = {"thing": 1.0, "style": 0.5, "ground": 0.2, "colour": 0.2}  # of the heads


class Projection(nn.Module):
    """What is read, [n, read], as tokens in front of the gains, [n, 4, width]; as IP-Adapter has it."""

    def __init__(self, read: int, states: States):
        super().__init__()
        self.start = states.bare(states.start)
        self.matrix = nn.Linear(read, TOKENS * len(self.start), bias=False)
        nn.init.normal_(self.matrix.weight, std=0.05)
        nn.init.zeros_(self.matrix.weight[: len(self.start)])  # the first token is the beginning, whatever is read

    def forward(self, read: Tensor) -> Tensor:
        found = self.matrix(read).unflatten(1, (TOKENS, -1)) + self.start
        return F.layer_norm(found, found.shape[-1:])

    def tensors(self, states: States) -> dict[str, Tensor]:
        """By IP-Adapter's names; of a picture of nothing, which is zeros there, it makes beginnings of texts alone."""
        return {
            "image_proj.proj.weight": self.matrix.weight.detach(),
            "image_proj.proj.bias": self.start.repeat(TOKENS),
            "image_proj.norm.weight": states.gain.clone(),
            "image_proj.norm.bias": states.bias.clone(),
        }


def stored(images: Tensor) -> Tensor:
    """uint8 [n, 3, h, w] as the judges' augmentation takes them, of side ``SIDE``."""
    return F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True).round().byte()


@torch.no_grad()
def read(tower: CLIPVisionModelWithProjection, images: Tensor, soft: bool, seed: int = 5) -> Tensor:
    """uint8 [n, 3, h, w] as the tower reads them, [n, read]; as they are, or softened as in training."""
    gen, found = torch.Generator().manual_seed(seed), []
    for part in images.split(256):
        plain = F.interpolate(part.float() / 255, (SIZE, SIZE), mode="bilinear", antialias=True)
        found.append(tower(pixel_values(augment(stored(part), SIZE, gen) if soft else plain)).image_embeds)
    return torch.cat(found)


def name(
    tower: CLIPVisionModelWithProjection, suite: Suite, scenes: Sequence[Scene], images: Tensor, recipe: Recipe = NAMED
) -> None:
    """Teach the tower, in place, what is in pictures of one thing. images: uint8 [n, 3, SIDE, SIDE]."""
    torch.manual_seed(recipe.seed)
    wanted = _classes(suite, scenes)
    heads = nn.ModuleDict(
        {axis: nn.Linear(tower.config.projection_dim, int(it.max()) + 1) for axis, it in wanted.items()}
    )

    def loss(read: Tensor, rows: Tensor) -> Tensor:
        return sum((
            WEIGHTS[axis] * F.cross_entropy(head(read), wanted[axis][rows], label_smoothing=0.1)
            for axis, head in heads.items()
        ), torch.zeros(()))  # fmt: skip

    _descend(tower, images, loss, heads.parameters(), recipe, "names")


def tell(
    tower: CLIPVisionModelWithProjection, states: States, suite: Suite, scenes: Sequence[Scene], images: Tensor,
    recipe: Recipe = TOLD,
) -> Projection:  # fmt: skip
    """Teach the tower, in place, and the adapter's matrix the tokens of such pictures."""
    torch.manual_seed(recipe.seed)
    wanted = torch.cat([states.bare(states.tokens(scenes[at : at + 256])[0]) for at in range(0, len(scenes), 256)])
    usual = (wanted - wanted.mean(0)).square().mean((0, 2)).clamp(min=1e-6)
    style = next(iter(suite.styles))
    known = states.bare(states.tokens([Scene((Thing(it),), style) for it in suite.objects])[0])[:, 1]
    apart, things = torch.pdist(known).square().median(), _classes(suite, scenes)["thing"]
    projection = Projection(tower.config.projection_dim, states)

    def loss(read: Tensor, rows: Tensor) -> Tensor:
        said = projection(read)
        _, thing, style, behind = (said - wanted[rows]).square().mean((0, 2)) / usual
        far = (said[:, 1, None] - known).square().sum(-1)
        return thing + (style + behind + F.cross_entropy(-SURE / apart * far, things[rows])) / 2

    _descend(tower, images, loss, projection.parameters(), recipe, "tokens")
    return projection.requires_grad_(False)


def _descend(
    tower: CLIPVisionModelWithProjection, images: Tensor, loss: Callable[[Tensor, Tensor], Tensor],
    beside: Iterable[nn.Parameter], recipe: Recipe, what: str,
) -> None:  # fmt: skip
    begun, gen, step = time.process_time(), torch.Generator().manual_seed(recipe.seed), 0
    tower.train().set_attn_implementation("eager")  # the fused one's backward pass is slow at these small sizes
    optim = Optimiser([*tower.parameters(), *beside], recipe.lr, recipe.adam_lr)
    bar = tqdm(total=round(recipe.minutes * 60), desc=what, unit="s", mininterval=5)
    while (spent := time.process_time() - begun) < recipe.minutes * 60:
        rows = torch.randint(len(images), (recipe.batch,), generator=gen)
        with torch.autocast("cpu", torch.bfloat16):
            found = tower(pixel_values(augment(images[rows], SIZE, gen))).image_embeds
        wrong = loss(found.float(), rows)
        optim.zero_grad()
        wrong.backward()
        done = spent / (recipe.minutes * 60)
        optim.step(min(1.0, (step + 1) / 30) * (0.5 + 0.5 * math.cos(math.pi * done)))
        step += 1
        bar.n = round(spent)
        bar.set_postfix(step=step, loss=f"{wrong.item():.3f}")
    bar.close()
    tower.eval().set_attn_implementation("sdpa")


def _classes(suite: Suite, scenes: Sequence[Scene]) -> dict[str, Tensor]:
    things, styles = [it.name for it in suite.objects], list(suite.styles)
    grounds, colours = [None, *TINTS], [None, *COLOURS]
    found = {
        "thing": [things.index(scene.things[0].object.name) for scene in scenes],
        "style": [styles.index(scene.style) for scene in scenes],
        "ground": [grounds.index(scene.tint) for scene in scenes],
        "colour": [colours.index(scene.things[0].colour) for scene in scenes],
    }
    return {axis: torch.tensor(numbers) for axis, numbers in found.items()}


@torch.no_grad()
def as_clip_reads(tower: CLIPVisionModelWithProjection) -> None:
    """Change the tower, in place, so that it takes pictures scaled as CLIP's, as diffusers scales them.

    A patch is one matrix of its pixels, and other scales are another matrix and another place to begin.
    """
    clip_mean, clip_spread, mean, spread = (
        torch.tensor(it).view(3, 1, 1) for it in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, MEAN, SPREAD)
    )
    embeddings = tower.vision_model.embeddings
    patch = embeddings.patch_embedding.weight
    moved = (patch * ((clip_mean - mean) / spread)).sum((1, 2, 3))
    embeddings.position_embedding.weight[1:] += moved
    patch *= clip_spread / spread
