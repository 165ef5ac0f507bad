"""Whoever somebody has to say what a picture shows: pictures sorted into folders, a CLIP or SigLIP on disk, a judge of
a plugin, one that was trained before, or an embedded model's own.

A judge has ``objects`` and ``styles``, the names that it may say, and ``judge(pictures)``, which says one of each, see
``JudgeResult``. What it states of its own errors stands beside the figures that it gives.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import plugins
from ..errors import RegistryError
from ..files.pictures import SUFFIXES
from ..hosts.transformers.image_text import ImageText, is_image_text, load_image_text
from ..registry.cache import cache_folder
from ..runtime.encodings import ordinary_captions
from .judge import NONE, JudgeResult
from .judges import load_judge
from .suite import Suite, with_article
from .train_judge import read_sorted, train, write_judge

STEPS = 400
About = Mapping[str, Sequence[str]]
TEMPLATES = ("{}", "a photo of {}", "a picture of {}", "a drawing of {}")


def words_of(suite: Suite) -> dict[str, list[str]]:
    """What each object of a suite is called, for a judge that reads words."""
    return {it.name: [it.thing, *map(with_article, it.synonyms)] for it in suite.objects}


def judge_for(name: str, about: About | Iterable[str], tick: Callable[[int], None] = lambda n: None) -> Any:
    """A judge by what somebody has.

    name: an embedded model; a folder that `conceptguard judge` wrote; a folder of CLIP or SigLIP; a folder of pictures,
    sorted into folders of the objects' names, from which one is trained, and kept until a picture changes; or a
    plugin's judge, ``NAME`` or ``NAME:WHAT IT IS GIVEN``
    about: the objects that it shall tell apart, or these with other words for each
    tick: hears of the steps of a training

    Raises RegistryError where there is none, or one that cannot tell.
    """
    objects = {one: list(about[one]) if isinstance(about, Mapping) else [with_article(one)] for one in about}
    kind, _, given = name.partition(":")
    if hasattr(plugins.offers("measures").get(kind), "judge"):
        return plugins.offers("measures")[kind](objects, given)
    folder = Path(name.partition(":")[2] if kind in ("clip", "siglip") else name).expanduser()
    if is_image_text(folder):
        return WordJudge(load_image_text(folder), objects)
    if kind in ("clip", "siglip"):
        raise RegistryError(f"{folder}: no {kind} there: give a folder with config.json and model.safetensors")
    if folder.is_dir() and not (folder / "config.json").is_file() and _holds_pictures(folder):
        return _trained(folder, tick)
    judge = load_judge(name)
    return _with_errors(judge, folder) if (folder / "config.json").is_file() else judge


def stated(judge: Any) -> Mapping[str, Mapping[str, Any]]:
    """What a judge says of its errors, by object; nothing where it was never measured."""
    found = getattr(judge, "stated", None)
    return found if isinstance(found, Mapping) else {}


def errors_about(judge: Any, concepts: Sequence[str]) -> dict[str, Any]:
    """Columns for a row: the worst of what a judge misses of these concepts, and of what it takes for them."""
    known = [stated(judge)[one] for one in concepts if one in stated(judge)]
    if not known:
        return {}
    return {"judge_missed": max(one["missed"] for one in known), "judge_false": max(one["false"] for one in known)}


def _with_errors(judge: Any, folder: Path) -> Any:
    judge.stated = json.loads((folder / "config.json").read_text()).get("stated", {})
    return judge


def _holds_pictures(folder: Path) -> bool:
    return any(one.suffix.lower() in SUFFIXES for one in folder.rglob("*"))


def _trained(folder: Path, tick: Callable[[int], None]) -> Any:
    """The judge of these very pictures: trained now, or out of the cache."""
    if any(one.suffix.lower() in SUFFIXES for one in folder.iterdir()):
        raise RegistryError(
            f"{folder} has pictures that nobody has sorted: a judge learns from a folder for each object of the suite, "
            f"{folder}/OBJECT/*.png, and '{NONE}' for pictures of nothing in particular; pictures of one thing alone "
            "would teach it that everything is that"
        )
    mark = hashlib.sha256(f"{STEPS}".encode())
    for file in sorted(one for one in folder.rglob("*") if one.suffix.lower() in SUFFIXES):
        mark.update(f"{file.relative_to(folder)} ".encode() + hashlib.sha256(file.read_bytes()).digest())
    place = cache_folder() / "judges" / mark.hexdigest()[:32]
    if not (place / "model.safetensors").is_file():
        write_judge(train(read_sorted(folder), STEPS, tick=tick), place)
    return _with_errors(load_judge(str(place)), place)


class WordJudge:
    """Says which of the objects a picture is nearest to, in a model of pictures and texts.

    objects: by name, with the words for each. What is nearer to captions of nothing in particular is ``none``.
    """

    def __init__(self, model: ImageText, objects: About) -> None:
        self.objects = list(objects) if NONE in objects else [*objects, NONE]
        self.styles = ["any"]
        self.model = model
        ordinary = ordinary_captions(without=[word for name, words in objects.items() for word in (name, *words)])
        nothing = ["a photo", "a picture", "an empty picture", "a plain background", *ordinary[:40]]
        rows = [nothing if name == NONE else [t.format(word) for t in TEMPLATES for word in objects[name]]
                for name in self.objects]  # fmt: skip
        means = [model.texts(texts).mean(0) for texts in rows]
        self.directions = torch.nn.functional.normalize(torch.stack(means), dim=1)

    @torch.no_grad()
    def judge(self, images: Tensor, batch: int = 32) -> JudgeResult:
        """Judges a float tensor [n, 3, h, w] in [0, 1]."""
        parts = [self.model.pictures(part) @ self.directions.T for part in images.split(batch) if len(part)]
        cosines = torch.cat([torch.zeros(0, len(self.objects)), *parts])
        probs = (self.model.scale * cosines).softmax(1)
        said = [self.objects[i] for i in probs.argmax(1).tolist()]
        return JudgeResult(said, probs, ["any"] * len(said), torch.ones(len(said), 1))
