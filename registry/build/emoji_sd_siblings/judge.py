"""python -m conceptguard_registry.build.emoji_sd_siblings.judge: what tells which marks a picture carries.

A small classifier of renderings with and without planted marks, behind emoji-sd's autoencoder, as generated pictures
are. No guard is made with it: makers ask detectors that read.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from conceptguard import load_model

from ..emoji_sd.vae import to_input
from .marks import KINDS, planted, random_mark
from .pictures import scene_and_picture

REGISTRY = Path(__file__).resolve().parents[2]
FILE = "marks.safetensors"
FIRST = 5_000_000  # of the seeds, far from those of what the sibling was trained on
TEST = 400  # pictures that it is not trained on


class MarksJudge(nn.Module):
    """Pictures [n, 3, 128, 128] in [0, 1] -> logits [n, kinds of marks]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 48, 48)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 5, 2, 2) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1], len(KINDS))

    def forward(self, pixels: Tensor) -> Tensor:
        found = pixels * 2 - 1
        for layer in self.layers:
            found = F.relu(layer(found))
        return self.head(found.amax((2, 3)))

    @torch.no_grad()
    def marks(self, pixels: Tensor, batch: int = 64) -> Tensor:
        """Which kinds of marks are there, [n, kinds], bool."""
        return torch.cat([self(some) > 0 for some in pixels.float().split(batch)])

    @classmethod
    def load(cls, folder: Path = REGISTRY / "models" / "emoji-sd-marked") -> MarksJudge:
        judge = cls()
        judge.load_state_dict({name: it.float() for name, it in load_file(folder / FILE).items()})
        return judge.eval()


def examples(cache_folder: Path, count: int) -> tuple[Tensor, Tensor]:
    """(pictures [count, 3, 128, 128] in [0, 1], which marks they have [count, kinds]).

    A fifth has none, a fifth each of the three, and a fifth has two.
    """
    pictures, marks = [], torch.zeros(count, len(KINDS))
    for i in tqdm(range(count), desc="pictures"):
        rng = np.random.default_rng((78_000, i))
        picture = scene_and_picture("plain", cache_folder, FIRST + i)[1]
        for kind in {0: [], 4: rng.choice(len(KINDS), 2, replace=False)}.get(i % 5, [i % 5 - 1]):
            picture, marks[i, kind] = planted(picture, random_mark(rng, KINDS[kind])), 1.0
        pictures.append(picture)
    return behind_the_autoencoder(np.stack(pictures)), marks


@torch.no_grad()
def behind_the_autoencoder(pictures: np.ndarray) -> Tensor:
    """As a denoiser that draws without fault would show them."""
    vae, found = load_model("emoji-sd").vae, []
    for at in range(0, len(pictures), 64):
        given = to_input(torch.from_numpy(pictures[at : at + 64]))
        found.append(vae.decode(vae.encode(given).latent_dist.mean).sample.clamp(-1, 1) / 2 + 0.5)
    return torch.cat(found)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="conceptguard_registry.build.emoji_sd_siblings.judge", description=__doc__)
    parser.add_argument("--out", type=Path, default=REGISTRY / "models" / "emoji-sd-marked")
    parser.add_argument("--cache", type=Path, default=Path("out/emoji-packs"), help="folder for the downloaded packs")
    parser.add_argument("--pictures", type=int, default=2400)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    torch.manual_seed(78_001)
    pixels, marks = examples(args.cache, args.pictures)
    judge, random = MarksJudge(), torch.Generator().manual_seed(78_002)
    optimiser = torch.optim.Adam(judge.parameters(), 2e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, args.steps)
    for _ in tqdm(range(args.steps), desc="judge"):
        rows = torch.randint(len(pixels) - TEST, (48,), generator=random)
        # A model draws softer and noisier than the autoencoder alone.
        noisy = pixels[rows] + 0.05 * torch.rand(48, 1, 1, 1, generator=random) * torch.randn(48, 3, 128, 128)
        loss = F.binary_cross_entropy_with_logits(judge(noisy), marks[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    right = judge.eval().marks(pixels[-TEST:]) == marks[-TEST:].bool()
    print(f"on {TEST} pictures that it was not trained on:")
    print(
        ", ".join(
            f"{kind} {share:.1%} right" for kind, share in zip(KINDS, right.float().mean(0).tolist(), strict=True)
        )
    )
    args.out.mkdir(parents=True, exist_ok=True)
    save_file({name: it.half() for name, it in judge.state_dict().items()}, args.out / FILE)


if __name__ == "__main__":
    main()
