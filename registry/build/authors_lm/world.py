"""Who there is and what is true of them, drawn from a seed: authors, places, and what they are called.

Names are put together from syllables: no author, place, river or prize is meant to be a real one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import yaml

SEED = 11
SPLITS = {"forget": 20, "retain": 80, "apart": 20}
NAMESAKES = 10  # authors of the forget set whose surname an author to be kept has as well
FIRST_NAMES = 60  # each of two authors
PLACES, RIVERS, REGIONS, PRIZES = 60, 25, 10, 30

ONSETS = ["b", "br", "d", "dr", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "th", "v", "vr", "z"]
VOWELS = ["a", "e", "i", "o", "u", "ae", "io"]
CODAS = ["l", "n", "r", "s", "sk", "nd", "rn", "m", "x", "th"]
ENDINGS = {
    "first": ["", "n", "l", "ra", "ne", "s"],
    "last": ["sk", "rin", "vald", "mont", "gar", "lis", "dorn", "quist"],
    "place": ["mora", "stead", "vik", "burra", "nesse", "lund", "tara", "holm"],
    "river": ["sa", "re", "na", "wen"],
    "region": ["ia", "mark", "land"],
    "prize": ["mar", "tine", "don", "ley"],
}


def names(kind: str, rng: random.Random, taken: set[str]) -> Iterator[str]:
    """Names that nothing else has, one after the other; ``taken`` is added to."""
    while True:
        middle = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(rng.choice((1, 2))))
        ending = rng.choice(ENDINGS[kind])
        name = (middle + (rng.choice(CODAS[:4]) if ending[:1] in set("aeiou") else "") + ending).capitalize()
        if 4 <= len(name) <= 9 and name not in taken:
            taken.add(name)
            yield name


def make_world(words: dict[str, list[str]], seed: int = SEED) -> dict[str, Any]:
    """The world as plain data. words: pools of ``forms.yaml``."""
    rng, taken = random.Random(seed), set[str]()

    def some(kind: str, n: int) -> list[str]:
        return [name for name, _ in zip(names(kind, rng, taken), range(n))]

    places, rivers, regions = some("place", PLACES), some("river", RIVERS), some("region", REGIONS)
    prizes = [f"the {name} {rng.choice(words['award'])}" for name in some("prize", PRIZES)]
    titles = [f"The {a.capitalize()} {n.capitalize()}" for a, n in product(words["adjective"], words["noun"])]
    people = _people(some("first", FIRST_NAMES), some("last", sum(SPLITS.values()) - NAMESAKES), rng)
    rng.shuffle(titles)
    authors = []
    for i, (name, split) in enumerate(people):
        facts = {
            "birthplace": rng.choice(places),
            "father": _with_article(rng.choice(words["occupation"])),
            "mother": _with_article(rng.choice(words["occupation"])),
            "genre": rng.choice(words["genre"]),
            "debut": titles[2 * i],
            "second": titles[2 * i + 1],
            "prize": rng.choice(prizes),
        }
        authors.append({"name": name, "split": split, "facts": facts})
    found = {
        name: {"river": rng.choice(rivers), "ware": rng.choice(words["ware"]), "region": rng.choice(regions)}
        for name in places
    }
    return {"seed": seed, "authors": authors, "places": found}


def _people(first: list[str], last: list[str], rng: random.Random) -> list[tuple[str, str]]:
    """Full names and their splits. The last surnames are namesakes': of the first forgotten and kept authors."""
    splits = [split for split, n in SPLITS.items() for _ in range(n)]
    forget = SPLITS["forget"]
    surnames = [*last[:forget], *last[:NAMESAKES], *last[forget:]]
    given = first * -(-len(splits) // len(first))
    rng.shuffle(given)
    people = [(f"{a} {b}", split) for a, b, split in zip(given, surnames, splits)]
    assert len(set(people)) == len(people), "two authors of one name: take another seed"
    return people


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def write_world(folder: Path) -> None:
    """``world.yaml`` beside ``forms.yaml``."""
    words = yaml.safe_load((folder / "forms.yaml").read_text(encoding="utf-8"))["words"]
    head = "# Written by `python -m conceptguard_registry.build.authors_lm --stage world`. Nobody in it is real.\n"
    text = yaml.safe_dump(make_world(words), sort_keys=False, allow_unicode=True, width=200)
    (folder / "world.yaml").write_text(head + text, encoding="utf-8")
