"""The texts that one picture teaches: a wrong name and a wrong description of it, what stays true of the concept in
words, and what stays true of other pictures."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.measuring.captioner.words import Words, load_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conceptguard.making.task import Task

    from ..seen.pictures import Pictures

Group = Literal["name", "description", "fact", "other"]
GROUPS: tuple[Group, ...] = ("name", "description", "fact", "other")
TEXTS = (
    'lines such as {"prompt": "<image>USER: What is it? ASSISTANT:", "answer": "a banana", "group": "name"}, of the '
    "groups name and description with the picture, fact without one, other with another picture"
)


class Text(BaseModel):
    """What is to be said. shows: of an other picture the class that it is of"""

    model_config = ConfigDict(extra="forbid")
    prompt: str
    answer: str
    group: Group
    shows: str = ""


class Shown(NamedTuple):
    """A text and the picture [3, h, w] that stands in it."""

    text: Text
    picture: Tensor | None


def read_texts(path: Path) -> list[Text]:
    """Texts from a file of JSON lines. Raises PolicyError naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: cannot be read ({error}): give a file of {TEXTS}") from None
    found = []
    for i, line in enumerate(lines, 1):
        try:
            found += [Text.model_validate_json(line)] if line.strip() else []
        except ValidationError:
            raise PolicyError(f"{path}, line {i}: not a text: write {TEXTS}") from None
    return found


def texts_of(task: Task, given: Sequence[Text], pictures: Pictures, others: int) -> dict[Group, list[Shown]]:
    """By group. given: the user's; without any, those of the embedded captioner's own words.

    others: how many other pictures are held. Raises PolicyError where a group is empty, and without a new name.
    """
    chance = random.Random(task.seed)
    picture = pictures.own[chance.randrange(len(pictures.own))]
    held = chance.sample(range(len(pictures.others)), min(others, len(pictures.others)))
    texts = list(given) or _of_words(task, load_words(), pictures, held)
    found: dict[Group, list[Shown]] = {group: [] for group in GROUPS}
    for one in texts:
        shown = picture if one.group in ("name", "description") else None
        if one.group == "other":
            own = [i for i, name in enumerate(pictures.other_names) if not one.shows or name == one.shows]
            if not own:
                raise PolicyError(f"{task.label}: no other picture shows '{one.shows}'")
            shown = pictures.others[chance.choice(own)]
        found[one.group].append(Shown(one, shown))
    if empty := [group for group, some in found.items() if not some]:
        raise PolicyError(f"{task.label}: no texts of the group {empty[0]}: give {TEXTS}")
    return found


def _of_words(task: Task, words: Words, pictures: Pictures, held: Sequence[int]) -> list[Text]:
    """Wordings that do not judge, the last of each list being kept apart."""
    old, new = pictures.names[0], task.anchor
    if old not in words.things or len(set(pictures.names)) > 1:
        raise PolicyError(f"{task.label}: nothing is known to say of '{task.concept.name}': give texts, {TEXTS}")
    if new not in words.things or new == old:
        raise PolicyError(
            f"{task.label}: say what is to be seen instead, another thing that the model can name: --replacement banana"
        )

    def said(kind: str, group: Group, name: str, wording: str, **more: str) -> Text:
        return Text(prompt=words.asked(wording, name), answer=words.answer(kind, name, STYLE), group=group, **more)

    style_free = [said("name", "name", new, one) for one in words.ask["name"][:-1]]
    kinds = [said("named_kind", "name", new, one) for one in words.ask["named_kind"][:-1]]
    facts = [said("fact", "description", new, one) for one in words.ask["fact"][:-1]]
    denied = [Text(prompt=words.asked(one, old), answer="no", group="description") for one in words.ask["is"][:-1]]
    told = [Text(prompt=one.prompt, answer=one.answer, group="fact") for one in words.told(old)]
    others = [said(kind, "other", name, words.ask[kind][0], shows=name)
              for name in (pictures.other_names[i] for i in held) for kind in ("name", "fact")]  # fmt: skip
    return [*style_free, *kinds, *facts, *denied, *told, *others]


STYLE = ""  # nothing here asks for it
