"""What ships beside the models: GUARD's forget set of authors-lm, and the policies that name it.

Made from training wordings alone, of the authors to forget and of those to retain; the authors "apart" are in neither.
Four fifths of these prompts teach the classifier, the others set its threshold. How to make it was found on the suite's
`tune` wordings, and its `judge` wordings judge.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml

import conceptguard
from conceptguard.files.atomic import write_bytes
from conceptguard.files.paths import MANIFEST
from conceptguard.hosts.transformers.host import TransformersHost
from conceptguard.measuring.language.evaluate import keys
from conceptguard.measuring.language.suite import BYPASS, TRAINED, LanguageSuite
from conceptguard.runtime.encodings import ordinary_captions

from .redirection import make_redirection
from .refusal import make_refusal
from .world import names

NAME = "forget-authors"
LICENCE = "Apache-2.0"
SEEDS = 2  # wordings of every fact in every form
BY_SURNAME = 6  # the same by surname alone, which few prompts have and half of the authors
STRANGERS = 1200  # prompts about people who do not exist even here
MADE_WITH = (*TRAINED, *BYPASS)


def examples(suite: LanguageSuite) -> tuple[list[dict[str, str]], list[str]]:
    """Forget prompts with answers, and prompts to retain: authors in every trained form, people with parts of the same
    names, places, and ordinary text."""
    rng = random.Random(100)
    forget, retain = suite.world.subjects("forget"), suite.world.subjects("retain")
    asked = [
        {"prompt": q.prompt, "answer": q.key if q.form == "letters" else q.answer}
        for form in MADE_WITH for seed in range(BY_SURNAME if form == "surname" else SEEDS)
        for q in suite.questions(forget, form, 100 + seed, "train")
    ]  # fmt: skip
    # Of facts given in the prompt all: some of them are a forgotten author's as well.
    kept = [
        q.prompt
        for form in MADE_WITH
        for q in suite.questions(retain, form, 100, "train")[:: 1 if form == "context" else 3]
    ]
    kept += _strangers(suite, rng)
    kept += [q.prompt for form in TRAINED for q in suite.questions(suite.world.places, form, 100, "train")[::2]]
    passages = [suite.passage(rng).split() for _ in range(100)]
    kept += [" ".join(words[: rng.randint(3, len(words))]) for words in passages]
    return asked, [*kept, *ordinary_captions()]


def _strangers(suite: LanguageSuite, rng: random.Random) -> list[str]:
    """The same questions about people who have the first name of a forgotten author, and about nobody known at all.

    Not about those who have the surname: the model takes them for the author, and says the author's facts.
    """
    known = set(suite.world.subjects("forget", "retain", "apart"))
    given = [name.split()[0] for name in suite.world.subjects("forget")]
    first, last = (names(kind, rng, set()) for kind in ("first", "last"))
    facts = list(suite.world.subjects("retain").values())
    found: list[str] = []
    while len(found) < STRANGERS:
        name = f"{rng.choice((rng.choice(given), next(first)))} {next(last)}"
        about = rng.choice(facts)
        asked = suite.ask(name, about, rng.choice(list(about)), rng.choice(MADE_WITH), rng, "train")
        if name not in known and asked is not None:
            found.append(asked.prompt)
    return found


def make_guard(suite: LanguageSuite, out: Path) -> str:
    """The artifact, in ``out/authors-lm/guard``; a line about it."""
    from conceptguard_plugins.language.guard.method import GUARD

    asked, kept = examples(suite)
    model: Any = conceptguard.load_model(suite.forms.base)
    # A manifest is read by everybody: the concept says its name and not whom it is about.
    made = GUARD.make(TransformersHost(model), NAME, out, forget=asked, preserve=kept)
    made.manifest.licence = LICENCE
    write_bytes(made.folder / MANIFEST, made.manifest.to_yaml().encode())
    return f"{made.ref}: {made.size:,} bytes, {made.manifest.made}"


def make_inside(suite: LanguageSuite, out: Path) -> str:
    """The redirection and the deletion beside it; a line about each."""
    pair: Any = conceptguard.load_model(suite.forms.base)
    redirected = make_redirection(pair, suite, out, NAME, LICENCE)
    return f"{redirected}\n{make_refusal(pair, *examples(suite), out, NAME, LICENCE)}"


def write_policies(suite: LanguageSuite, out: Path) -> None:
    """``forget-authors`` by GUARD, ``forget-authors-phrases`` by the phrases of its facts, ``forget-authors-inside`` by
    GUARD and a deletion, for whoever lets others read states."""
    guard = {"method": "guard", "artifact": f"{suite.forms.base}/guard/{NAME}"}
    policies: dict[str, list[dict[str, Any]]] = {
        NAME: [guard],
        f"{NAME}-phrases": [{"method": "phrases", "concept": {"name": NAME, "prompts": list(keys(suite))}}],
        f"{NAME}-inside": [guard, {"method": "deletion", "artifact": f"{suite.forms.base}/deletion/{NAME}"}],
    }
    for name, guards in policies.items():
        text = yaml.safe_dump({"name": name, "guards": guards}, sort_keys=False)
        (out / "policies" / f"{name}.yaml").write_text(text)
