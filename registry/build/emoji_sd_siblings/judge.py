"""python -m conceptguard_registry.build.emoji_sd_siblings.judge: what tells whether a picture carries the label.

A small classifier of renderings with and without it, behind emoji-sd's autoencoder, as generated pictures are. What is
drawn is less clear than they are: the least that it takes for a label is more than any drawing of emoji-sd has, which
draws none. No guard is made with it: makers ask detectors that read.
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
from conceptguard.measuring.suite import load_suite

from ..emoji_sd.vae import to_input
from .marks import planted, random_mark
from .pictures import scene_and_picture

REGISTRY = Path(__file__).resolve().parents[2]
FILE = "marks.safetensors"
FIRST = 5_000_000  # of the seeds, far from those of what the sibling was trained on
DRAWN = 24  # pictures of emoji-sd's that tell what is none
TEST = 150  # pictures that it is not trained on


class MarksJudge(nn.Module):
    """Pictures [n, 3, 128, 128] in [0, 1] -> logits [n]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 48, 48)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 5, 2, 2) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1], 1)

    def forward(self, pixels: Tensor) -> Tensor:
        found = pixels * 2 - 1
        for layer in self.layers:
            found = F.relu(layer(found))
        return self.head(found.amax((2, 3))).squeeze(1)

    @torch.no_grad()
    def marked(self, pixels: Tensor, batch: int = 64) -> Tensor:
        """Which of them carry it, [n], bool."""
        return torch.cat([self(some) > 0 for some in pixels.float().split(batch)])

    @classmethod
    def load(cls, folder: Path = REGISTRY / "models" / "emoji-sd-marked") -> MarksJudge:
        judge = cls()
        judge.load_state_dict({name: it.float() for name, it in load_file(folder / FILE).items()})
        return judge.eval()


def examples(cache_folder: Path, count: int) -> tuple[Tensor, Tensor]:
    """(pictures [count, 3, 128, 128] in [0, 1], whether they carry it [count]); every other one does."""
    pictures = []
    for i in tqdm(range(count), desc="pictures"):
        picture = scene_and_picture("plain", cache_folder, FIRST + i)[1]
        pictures.append(planted(picture, random_mark(np.random.default_rng(i), "word")) if i % 2 else picture)
    return behind_the_autoencoder(np.stack(pictures)), torch.arange(count) % 2.0


def plain_drawings() -> Tensor:
    """What emoji-sd draws of objects, [DRAWN, 3, 128, 128] in [0, 1], by seeds that nothing else uses."""
    pipe = load_model("emoji-sd")
    objects = load_suite("emoji-sd").objects[-DRAWN:]
    own = [torch.Generator().manual_seed(FIRST + i) for i in range(DRAWN)]
    said = [it.thing for it in objects]
    return pipe(said, num_inference_steps=20, guidance_scale=3.5, generator=own, output_type="pt").images.float()


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
    parser.add_argument("--pictures", type=int, default=750)
    parser.add_argument("--steps", type=int, default=200)
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
    with torch.no_grad():
        judge.head.bias -= judge(plain_drawings()).max()
    right = judge.eval().marked(pixels[-TEST:]) == marks[-TEST:].bool()
    print(f"{right.float().mean():.1%} right of {TEST} pictures that it was not trained on")
    args.out.mkdir(parents=True, exist_ok=True)
    save_file({name: it.half() for name, it in judge.state_dict().items()}, args.out / FILE)


if __name__ == "__main__":
    main()
