"""Pictures of a concept, and of others: those that an embedded captioner comes with, or a folder's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.finding.pictures import read_folder
from conceptguard.making.examples import MARK, Examples, load_examples

if TYPE_CHECKING:
    from conceptguard.making.task import Task

DATA = "a folder of pictures, sorted into folders by what they show"


class Pictures(NamedTuple):
    """own, others: pictures [n, 3, h, w] in [0, 1]; names, other_names: what each shows."""

    own: Tensor
    names: list[str]
    others: Tensor
    other_names: list[str]


def pictures_of(task: Task, data: str | None) -> Pictures:
    """What a maker may look at. data: ``DATA``; by default what the model itself comes with. Raises PolicyError."""
    host: Any = task.host
    if host.generates != "text":
        raise PolicyError(f"{task.label}: it is for language models that see pictures, and {host.name} writes no text")
    examples = _sorted(Path(data)) if data else _brought(task)
    own = examples.matching(task.concept.prompts)
    rest = examples.of("train")
    rest = rest[~torch.isin(rest, own)]
    names = [[examples.classes[int(label)] for label in examples.labels[some]] for some in (own, rest)]
    return Pictures(examples.inputs[own], names[0], examples.inputs[rest], names[1])


def _brought(task: Task) -> Examples:
    host: Any = task.host
    folder = Path(str(getattr(host.model, "name_or_path", "")))
    if not (folder / MARK).is_file():
        raise PolicyError(f"{task.label}: this model brings no pictures: give --set data=FOLDER, {DATA}")
    return load_examples(folder)


def _sorted(folder: Path) -> Examples:
    found = read_folder(folder)
    if set(found.classes) == {""}:
        raise PolicyError(f"{folder}: its pictures lie side by side: give {DATA}")
    classes = sorted(set(found.classes))
    labels = torch.tensor([classes.index(one) for one in found.classes])
    keys = [f"{one}/{name}" for one, name in zip(found.classes, found.names)]
    return Examples(found.pixels.float() / 255, labels, keys, ["train"] * len(keys), classes)
