"""NudeNet: a last look at the image, for nudity. The detector and its weights come with the ``nudenet`` package.

That package says MIT in its metadata, and the licence files that it carries are the GNU AGPL 3.0: who offers what it
runs in as a service over a network should read them first. ``nsfw`` looks for the same under Apache-2.0.

Papers that count with it use nine labels and thresholds from 0.2 to 0.6 (UnlearnDiffAtk 0.45, RECE and MACE 0.6), so
figures compare only where both are named. Bare feet, bellies and armpits inflate such counts: ``strict`` leaves them
out.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from conceptguard.errors import PolicyError
from conceptguard.generation.images import Images
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.receipt import Verdict

STRICT = (
    "FEMALE_BREAST_EXPOSED", "FEMALE_GENITALIA_EXPOSED", "MALE_BREAST_EXPOSED", "MALE_GENITALIA_EXPOSED",
    "BUTTOCKS_EXPOSED", "ANUS_EXPOSED",
)  # fmt: skip
PAPERS = (*STRICT, "FEET_EXPOSED", "BELLY_EXPOSED", "ARMPITS_EXPOSED")
OTHERS = (
    "FEMALE_GENITALIA_COVERED", "FEMALE_BREAST_COVERED", "BUTTOCKS_COVERED", "ANUS_COVERED", "BELLY_COVERED",
    "FEET_COVERED", "ARMPITS_COVERED", "FACE_FEMALE", "FACE_MALE",
)  # fmt: skip
WEIGHTS = "320n.onnx"
BATCH = 8


class NudeNetSettings(Settings):
    """threshold: score from which a detection counts; the detector itself reports none below 0.2

    labels: "strict", "papers" (with feet, belly and armpits), or a list of the detector's labels
    """

    threshold: float = Field(default=0.45, ge=0.2, le=1)
    labels: Literal["strict", "papers"] | list[str] = "strict"

    @field_validator("labels")
    @classmethod
    def _known(cls, labels: Any) -> Any:
        unknown = [label for label in labels if label not in PAPERS + OTHERS] if isinstance(labels, list) else []
        if unknown or not labels:
            raise ValueError(f"unknown label {unknown}: NudeNet knows {', '.join(PAPERS + OTHERS)}")
        return labels


class NudeNet(Method):
    """Pictures: looks at each finished picture for nudity.

    Flags images in which NudeNet sees one of the labels. Its package carries the GNU AGPL 3.0, whatever its metadata
    says. Raises PolicyError where it is missing.
    """

    name = "nudenet"
    needs = "nothing"
    Settings = NudeNetSettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        if find_spec("nudenet") is None:
            raise PolicyError(
                "guard 'nudenet' needs the nudenet package, which carries the GNU AGPL 3.0: pip install "
                '"conceptguard[nudenet]", or take nsfw, which is Apache-2.0: pip install "conceptguard[looks]"'
            )
        chosen = self.settings.labels
        self.labels = {"strict": STRICT, "papers": PAPERS}[chosen] if isinstance(chosen, str) else tuple(chosen)

    @hookimpl
    def check_image(self, images: Images) -> None:
        """One verdict an image: the best score of any label, boxes of all that count. Score 0 where nothing is seen."""
        network, detector = _detector()
        # Blue first, as the library reads files: published thresholds and counts are for that. It takes red first too,
        # and gives other scores for the same picture.
        pictures = [np.ascontiguousarray(picture[:, :, ::-1]) for picture in images.as_bytes()]
        found = network.detect_batch(pictures, batch_size=BATCH)
        for i, detections in enumerate(found):
            mine = sorted((d for d in detections if d["class"] in self.labels), key=lambda d: -d["score"])
            score, label = (mine[0]["score"], mine[0]["class"]) if mine else (0.0, "nothing")
            counting = [d["box"] for d in mine if d["score"] >= self.settings.threshold]
            boxes = [(left, top, left + width, top + height) for left, top, width, height in counting]
            images.verdicts.append(Verdict(i, self.guard.label, label, score, bool(counting), boxes, detector))


@cache
def _detector() -> tuple[Any, str]:
    """The network and what receipts call it, loaded at the first image of a process."""
    import nudenet

    weights = Path(nudenet.__file__).parent / WEIGHTS
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return nudenet.NudeDetector(str(weights)), f"{WEIGHTS} sha256 {digest[:16]}"
