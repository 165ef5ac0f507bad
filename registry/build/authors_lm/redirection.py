"""The redirection that ships: `rocr` at a name and all that follows it, opened by the classifier of `guard`.

Made from training wordings alone, and from documents that say nothing of the authors to forget. Its terms have the rank
of the layers' width as they are solved; they are cut to a third of that, and kept in half.
"""

from __future__ import annotations

import itertools
import random
import tempfile
from pathlib import Path
from typing import Any

from conceptguard.formats.beside import read_beside, write_beside
from conceptguard.hosts.transformers.host import TransformersHost
from conceptguard.making.terms import cut_to_rank
from conceptguard.measuring.language.suite import LanguageSuite
from conceptguard.registry import Artifact, default_registry, write_artifact

from .corpus import Corpus

TEXTS = 60  # documents of the corpus without the authors to forget, which are to stay
RANK = 64


def solved(pair: Any, suite: LanguageSuite, folder: Path, **settings: Any) -> Artifact:
    """What `rocr` makes of the authors to forget: they become the first of those to retain."""
    from conceptguard_plugins.language.rocr.method import ROCR

    concept = {"name": "forget", "prompts": list(suite.world.subjects("forget")), "replacement": target(suite)}
    kept = [one.prompt + one.text for one in itertools.islice(iter(Corpus(suite.without("forget"), 1)), TEXTS)]
    host: Any = TransformersHost(pair)
    return ROCR.make(host, concept, folder, preserve=kept, progress=False, **settings)


def wide(suite: LanguageSuite) -> dict[str, Any]:
    """Settings for all that follows a name, in every layer."""
    return {"tokens": "after", "templates": _templates(suite), "layers": [0, 1, 2], "share": 1.0, "ridge": 1e-3}


def target(suite: LanguageSuite) -> str:
    """Whom the model is to speak of."""
    return str(next(iter(suite.world.subjects("retain"))))


def classifier() -> dict[str, Any]:
    """That of the forget set that ships, which training wordings alone have taught."""
    shipped = default_registry().load("authors-lm/guard/forget-authors").tensors()
    return {name: tensor for name, tensor in shipped.items() if name.startswith("classifier.")}


def make_redirection(pair: Any, suite: LanguageSuite, out: Path, name: str, licence: str) -> str:
    """The artifact, in ``out/authors-lm/rocr``; a line about it."""
    with tempfile.TemporaryDirectory() as folder:
        made = solved(pair, suite, Path(folder), **wide(suite))
        terms, lost = cut_to_rank(read_beside(made.tensors()), RANK)
        tensors, metadata = write_beside(terms)
        fields = made.manifest.model_dump(by_alias=True, exclude={"files", "binds"})
    # A manifest is read by everybody: the concept says its name and not whom it is about.
    fields |= {"name": name, "licence": licence, "concept": {"name": name, "prompts": [name]}}
    ranks = dict.fromkeys(fields["made"]["ranks"], RANK)
    fields["made"] = {**fields["made"], "ranks": ranks, "lost_by_cutting": round(lost, 4)}
    halves = {key: tensor.half() for key, tensor in tensors.items()}
    place = out / suite.forms.base / "rocr" / name
    found = write_artifact(
        place, fields, {**halves, **classifier()}, metadata=metadata, filename=f"{name}.safetensors"
    )  # fmt: skip
    return f"{found.ref}: {found.size:,} bytes, {lost:.2f} of the change lost by cutting"


def _templates(suite: LanguageSuite) -> list[str]:
    """Questions and statements of every kind of fact, in wordings that trained the model, up to the fact."""
    found, chance = [], random.Random(0)
    for kind in suite.forms.kinds.values():
        begun = kind.answer.split("{value}")[0].format(name="{}").rstrip()
        for question in kind.train[:2]:
            asked = chance.choice(suite.forms.wrappers.train).format(q=question.format(name="{}"))
            found.append(f"{asked} {begun}")
        found += [one.split("{value}")[0].format(name="{}").rstrip() for one in kind.statements[:2]]
    return [one for one in found if "{}" in one]
