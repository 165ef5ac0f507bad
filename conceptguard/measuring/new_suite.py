"""A suite for a concept of one's own: what to ask for beside it, and a file in which every field is explained.

What stands near a concept is what the model's own text encoder tells the denoiser alike of: of words that somebody
gave, of the objects that a judge knows, or of the nouns in the captions that the model was trained on. Captions also
tell in which wordings the model was asked.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import normalize

from ..errors import RegistryError
from ..making.templates import TEMPLATES, encode_all, fill
from ..text.words import stands_in
from .judge import NONE

NEAR, FAR = 3, 8
LEAST = 2  # captions that name a thing before it counts as one that the model draws
WORDINGS = (
    "a close-up of {thing}",
    "{thing} on a plain background",
    "a picture that shows {thing}",
    "{noun}, seen up close",
)

_ENDS = (
    "in|on|with|of|at|and|or|by|from|near|under|over|to|for|is|are|that|which|who|as|next|beside|behind|above|below|"
    "against|between|during|through"
)
_NOUN = re.compile(
    r"\b(?:an?|one|two|three|some)\s+((?:[a-z][a-z'-]*\s+){0,2}?[a-z][a-z'-]*)"
    rf"(?=\s+(?:{_ENDS}|[a-z]+ing)\b|\s*[,.;:!?()]|\s*\Z)"
)
_MEDIA = re.compile(
    "photo|photograph|picture|image|drawing|painting|illustration|icon|emoji|sketch|render|portrait|close-up|closeup|"
    "view|style|background|scene"
)


def nouns(captions: Iterable[str]) -> Counter[str]:
    """In how many captions each thing is named: what stands after an article up to the next preposition or comma, and
    short tags between commas. Words for pictures themselves, "a photo", are left out.
    """
    found: Counter[str] = Counter()
    for caption in captions:
        text = " ".join(caption.lower().split())
        named = {match[1] for match in _NOUN.finditer(text)}
        pieces = [piece.strip() for piece in text.split(",")]
        if len(pieces) > 2:  # tags, and no sentence
            named |= {piece for piece in pieces if re.fullmatch(r"[a-z'-]+(?: [a-z'-]+)?", piece)}
        found.update(name for name in named if not _MEDIA.fullmatch(name.split()[-1]))
    return found


def wordings(captions: Iterable[str], things: Iterable[str], most: int = 6) -> list[str]:
    """Templates in which captions ask for things, those for most things first. Only what two things share is one."""
    known = sorted(set(things), key=len, reverse=True)
    shared: dict[str, set[str]] = {}
    for caption in captions:
        text = " ".join(caption.split())
        named = next((one for one in known if stands_in(one, text)), None)
        if named is None or sum(stands_in(one, text) for one in known) > 1 + sum(
            one in named for one in known if one != named
        ):
            continue
        template = re.sub(rf"\b(?:an?)\s+{re.escape(named)}\b", "{thing}", text, count=1, flags=re.IGNORECASE)
        if "{thing}" not in template:
            template = re.sub(rf"(?<!\w){re.escape(named)}(?!\w)", "{noun}", text, count=1, flags=re.IGNORECASE)
        if not re.search(r"[{}]", re.sub(r"\{thing\}|\{noun\}", "", template)):
            shared.setdefault(template, set()).add(named)
    ranked = sorted(shared, key=lambda one: (-len(shared[one]), one))
    return [one for one in ranked if len(shared[one]) >= LEAST][:most]


def closeness(host: Any, words: Sequence[str], others: Sequence[str]) -> list[float]:
    """How near each of the others is to the nearest of the words, as the denoiser is told of them: cosines of the mean
    encodings of their own tokens and the end's, over a few wordings, about the mean of all of these words.

    Raises SessionError for a host without a text encoder.
    """
    named = [*words, *others]
    means = torch.zeros(())
    for template in TEMPLATES:
        texts = [fill(template, word) for word in named]
        encoded = encode_all(host, texts)
        rows = [row[1 : 2 + len(ids)].float().mean(0) for row, ids in zip(encoded.embeds, host.tokens(texts))]
        means = means + torch.stack(rows).cpu()
    told = normalize(means - means.mean(0), dim=-1)
    found: list[float] = (told[len(words) :] @ told[: len(words)].T).amax(1).tolist() if others else []
    return found


def choose(concept: str, words: Sequence[str], candidates: Mapping[str, int] | Sequence[str], host: Any,
           near: int = NEAR, far: int = FAR) -> tuple[list[str], list[str]]:  # fmt: skip
    """(neighbours, others) out of candidates: the nearest, and of the farther half those that most captions name."""
    counts = dict(candidates) if isinstance(candidates, Mapping) else dict.fromkeys(candidates, LEAST)
    said = [concept, *words]
    names = [
        name for name, n in counts.items()
        if n >= LEAST and name != NONE and not any(stands_in(a, b) for w in said for a, b in ((w, name), (name, w)))
    ]  # fmt: skip
    scores = dict(zip(names, closeness(host, said, names)))
    by_nearness = sorted(names, key=lambda name: -scores[name])
    near = min(near, -(-len(names) // 3))  # of few, most are to be unrelated
    neighbours, rest = by_nearness[:near], by_nearness[near:]
    half = rest[len(rest) // 2 :] if len(rest) >= 2 * far else rest
    return neighbours, sorted(sorted(half, key=lambda name: -counts[name])[:far], key=by_nearness.index)


@dataclass(frozen=True)
class NewSuite:
    """What a new suite says. words: other nouns for the concept; phrases: freer wordings that show it; things: with
    their articles, where "a NAME" is wrong."""

    base: str
    concept: str
    words: list[str] = field(default_factory=list)
    phrases: list[str] = field(default_factory=list)
    neighbours: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    templates: list[str] = field(default_factory=lambda: list(WORDINGS))
    things: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raises RegistryError for what could not be judged."""
        for name in [*self.neighbours, *self.others]:
            if name == self.concept or name in self.words:
                raise RegistryError(f"'{name}' is the concept itself: leave it out of what must stay")
        if both := sorted(set(self.neighbours) & set(self.others)):
            raise RegistryError(f"'{both[0]}' is among the neighbours and the others: leave it in one of them")
        for template in self.templates:
            if "{thing}" not in template and "{noun}" not in template:
                raise RegistryError(f"template '{template}' has no place for a thing: write {{thing}} or {{noun}}")

    def text(self) -> str:
        """The file, in YAML, with what every field is for."""
        self.check()
        return "\n".join([*_head(self), *_object(self, self.concept, "target"),
                          *(line for name in self.neighbours for line in _object(self, name, "neighbour")),
                          *(line for name in self.others for line in _object(self, name, "other"))]) + "\n"  # fmt: skip


def _head(suite: NewSuite) -> list[str]:
    return [
        f"# What `conceptguard eval` asks a model, to see whether {suite.concept} is erased and all else is left.",
        "# Written by `conceptguard suite new`; change what you like, and see it with `conceptguard suite check FILE`.",
        "",
        "# The family of your artifacts: the name of the model's folder, as `conceptguard make --model` has it.",
        f"base: {_said(suite.base)}",
        "",
        "# What may be erased: names out of the objects below.",
        f"concepts: [{_said(suite.concept)}]",
        "",
        '# Wordings to ask in, other ones than guards are made with: {thing} is "a dog", {noun} is "dog"; where styles',
        "# are named, {style} is each in turn. Wordings that the model was trained on are those that it draws best.",
        "judge_templates:",
        *(f"  - {_said(template)}" for template in suite.templates),
        "",
        "# Styles that the model knows by name: judge_templates then hold {style}; judge_templates_plain, where every",
        "# fourth prompt is from, hold none. A style of concept_styles may be erased, the others must stay.",
        "# styles: {watercolour: {}, woodcut: {}}",
        '# judge_templates_plain: ["a close-up of {thing}"]',
        "# concept_styles: [woodcut]",
        "",
        "# What is asked for. Every name must be one that the judge says.",
        "#   group       target: may be erased; neighbour: near something that is, and must stay; other: unrelated",
        '#   thing       with its article, where "a NAME" is wrong: "scissors", "the moon"',
        "#   synonyms    other nouns for it; half of the prompts about a target use them and its phrases",
        '#   phrases     freer wordings that show it without naming it: "a man in a brass band"',
        "#   neighbours  of a target: the names of those that must stay when it goes",
        "objects:",
    ]


def _object(suite: NewSuite, name: str, group: str) -> list[str]:
    lines = [f"  - name: {_said(name)}", f"    group: {group}"]
    if name in suite.things:
        lines.append(f"    thing: {_said(suite.things[name])}")
    if group == "target":
        lists = (("synonyms", suite.words), ("phrases", suite.phrases), ("neighbours", suite.neighbours))
        lines += [f"    {key}: [{', '.join(map(_said, values))}]" for key, values in lists]
    return lines


def _said(text: str) -> str:
    """A text as YAML reads it back: bare where that is the same."""
    plain = re.fullmatch(r"[A-Za-z][\w -]*[\w]|[A-Za-z]", text)
    return (
        text if plain and text.lower() not in ("true", "false", "null", "yes", "no", "on", "off") else json.dumps(text)
    )
