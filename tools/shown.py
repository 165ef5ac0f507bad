"""What `concept_express` finds in pictures of two objects, and what a guard made from that erases.

Pictures are put together of what emoji-sd draws from seeds that nothing else uses, so that it is known what they show
and where. Each is given to the finder alone; of every object: how far a mask covers it, whether it is called by one of
its words, what its token draws. Then `uce` is made of what the finder says of some of the objects, and judged on
prompts that nobody saw. Controls: the same masks elsewhere, and `uce` of a word at random.

    python -m tools.shown --json FILE
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from conceptguard_plugins.diffusion.uce import UCE
from conceptguard_plugins.finding.concept_express.method import ConceptExpress

import conceptguard
from conceptguard.finder import FoundConcept, PictureSet, Search
from conceptguard.finding.encoders import EMBEDDED, load_encoder, words_for
from conceptguard.finding.files import concept_of
from conceptguard.finding.planted import MARK, OBJECTS, SIDE, SPRITE, STYLES, Scene, compose, drawn_alone
from conceptguard.measuring.cases import case
from conceptguard.measuring.evaluate import evaluate
from conceptguard.measuring.judges import load_judge, load_judges, recognised
from conceptguard.measuring.samples import Recipe, make
from conceptguard.measuring.suite import Sample, load_suite
from conceptguard.plugins import host_for
from conceptguard.policy_file import load_policy

from .rows import parser_of, write_rows

SEED = 8_700_000
PICTURES, JUDGED = 8, 2  # and for how many objects a guard is made
LEAST = 0.15  # overlap, below which a part is of something else


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--pictures", type=int, default=PICTURES, help="how many are looked at")
    parser.add_argument("--judged", type=int, default=JUDGED, help="for how many objects a guard is made")
    parser.add_argument("--steps", type=int, default=25, help="of everything that is drawn")
    asked = parser.parse_args()
    write_rows("shown", rows(asked.pictures, asked.judged, Recipe(asked.steps)), asked.json)


def scenes(count: int) -> list[Scene]:
    """Two objects in each, side by side, in one style and the other by turns."""
    chance, found = random.Random(SEED), []
    for i in range(count):
        names, style = chance.sample(OBJECTS, 2), STYLES[i % len(STYLES)]
        objects = tuple(
            (name, 0, half * SIDE // 2 + chance.randrange(3), MARK // 2 + chance.randrange(SIDE - SPRITE - MARK))
            for half, name in enumerate(names)
        )
        found.append(Scene(objects, style, chance.random() < 0.3, None))
    return found


def rows(pictures: int, judged: int, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """One for each object of each picture, then one for each guard."""
    pipe: Any = conceptguard.load_model("emoji-sd").to("cuda" if torch.cuda.is_available() else "cpu")
    pipe.set_progress_bar_config(disable=True)
    host, suite, encoder = host_for(pipe), load_suite("emoji-sd"), load_encoder()
    drawn, chance = drawn_alone(pipe, SEED, recipe.steps), random.Random(1)
    known: list[tuple[str, Any]] = []
    for i, scene in enumerate(scenes(pictures)):
        pixels, masks = compose(scene, drawn)
        given = PictureSet((pixels.clamp(0, 1) * 255).round().byte()[None], [f"{i}"], [""])
        search = Search(host, None, ConceptExpress.FindSettings(), i, "shown", False, given, encoder,
                        words_for(EMBEDDED, things=True))  # fmt: skip
        found = ConceptExpress.find(search).concepts
        for name in (one[0] for one in scene.objects):
            covered = [_overlap(_large(one), masks[name]) for one in found]
            best = max(range(len(found)), key=covered.__getitem__, default=None)
            row = {"kind": "part", "picture": i, "object": name, "style": scene.style, "found": len(found),
                   "iou": covered[best] if best is not None else 0.0,
                   "iou_random": _by_chance(found[best], masks[name], chance) if best is not None else 0.0}  # fmt: skip
            one = found[best] if best is not None and covered[best] >= LEAST else None
            words = list(one.evoked) if one else []
            own = {name, *suite.object(name).synonyms}
            row |= {"words": ", ".join(words), "named": bool(words) and words[0] in own, "unnamed": not words}
            row["token"] = _drawn(pipe, host, one, name, recipe) if one else 0.0
            if one and row["named"] and name not in [it[0] for it in known]:
                known.append((name, concept_of(one)))
            yield row
    for name, concept in known[:judged]:
        for kind in ("guard", "control"):
            of = concept if kind == "guard" else {"name": "other", "prompts": [chance.choice(
                [it.name for it in suite.objects if it.name != name])]}  # fmt: skip
            yield {"kind": kind, **_judged(pipe, suite, name, of, recipe)}


def _judged(pipe: Any, suite: Any, name: str, concept: Any, recipe: Recipe) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        made = UCE.make(host_for(pipe), concept, Path(folder), progress=False)
        policy = load_policy({"guards": [{"method": "uce", "artifact": str(made.folder)}]})
        asked = case(suite, "uce", [name], policy, 4, 4, seed=7)
        row = evaluate(pipe, load_judges(suite), asked, recipe, "emoji-sd").row
    keys = ("erased_before", "erased_after", "neighbours_before", "neighbours_after", "others_before", "others_after")
    return {"object": name, "words": ", ".join(made.manifest.concept.prompts), **{key: row[key] for key in keys}}


def _drawn(pipe: Any, host: Any, one: FoundConcept, name: str, recipe: Recipe, count: int = 4) -> float:
    """The share of pictures of a concept's token in which the judge sees what the part shows."""
    if one.token is None:
        return 0.0
    samples = [Sample("a picture of shownthing", SEED + i, "object", name) for i in range(count)]
    with host.knowing({"shownthing": one.token[0]}):
        seen = recognised(load_judge("emoji-sd"), samples, make(pipe, samples, recipe))
    return sum(seen) / count


def _large(one: FoundConcept) -> torch.Tensor:
    return F.interpolate(one.maps[None], (SIDE, SIDE), mode="nearest")[0, 0] > 0


def _by_chance(one: FoundConcept, mask: torch.Tensor, chance: random.Random) -> float:
    """Of the same part somewhere else."""
    return _overlap(_large(one).roll((chance.randrange(SIDE), chance.randrange(SIDE)), (0, 1)), mask)


def _overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    return round(float((one & other).sum() / (one | other).sum().clamp(min=1)), 3)


if __name__ == "__main__":
    main()
