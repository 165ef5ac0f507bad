"""What `npo`, `simnpo` and `rmu` make authors-lm forget, beside the model as it is and the one that never knew.

Trained on wordings that trained the model, of its authors to forget and of those to retain; authors kept apart are in
neither. Asked in every form, in wordings that no maker saw. Each is judged open for every prompt, which is the
published method, and opened by the classifier that it learnt from the same texts.

    python -m tools.unlearned --json FILE
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from conceptguard_registry.build.authors_lm import train
from conceptguard_registry.build.authors_lm.corpus import Corpus
from conceptguard_registry.build.authors_lm.guards import examples

import conceptguard
from conceptguard import plugins
from conceptguard.formats.beside import deltas
from conceptguard.host import LanguageModel
from conceptguard.hosts.transformers.host import TransformersHost
from conceptguard.measuring.language.benchmarks import Benchmarks
from conceptguard.measuring.language.evaluate import Contestant, answer, groups, judge
from conceptguard.measuring.language.suite import LanguageSuite, load_language_suite
from conceptguard.policy_file import load_policy

from .rows import parser_of, write_rows

EACH = 6  # questions of every form and group
RETAIN = 3000  # documents of the corpus, without authors to forget or kept apart
SEED = 5

# Found on the suite's wordings to tune on.
SETTINGS: dict[str, dict[str, Any]] = {
    "npo": {"steps": 150, "batch": 8, "retain_weight": 10.0},
    "simnpo": {"steps": 150, "batch": 8, "lr": 2e-3, "forget_weight": 0.5},
    "rmu": {"steps": 120, "batch": 8, "lr": 1e-2, "layer": 1, "rank": 64, "retain_weight": 2.0},
}


def main() -> None:
    write_rows("unlearned", judged_rows(), parser_of(__doc__).parse_args().json)


def judged_rows(methods: Sequence[str] = tuple(SETTINGS), benchmarks: Sequence[str] = ("tofu", "muse")) -> Any:
    """A row for each way, one after the other."""
    suite = load_language_suite()
    pair: Any = conceptguard.load_model(suite.forms.base)
    never: Any = conceptguard.load_model(suite.forms.retain)
    asked = groups(suite, EACH)
    before = [answer(pair.model, pair.tokenizer, part.questions, Contestant("none")) for part in asked]
    measured = Benchmarks(benchmarks, never, suite)

    def judged(one: Contestant, who: Any = pair) -> dict[str, Any]:
        return judge(who, never, suite, one, asked, before)

    yield judged(Contestant("none")) | measured.of(pair, Contestant("none"))
    with tempfile.TemporaryDirectory() as folder:
        for method in methods:
            made = learnt(suite, pair, method, Path(folder))
            who, one = changed(pair, made), Contestant(method)
            cost = {"make_seconds": made.manifest.made["seconds"], "bytes": made.size}
            yield judged(one, who) | measured.of(who, one) | cost
            label = f"{method}, opened by its classifier"
            rules = load_policy({"name": label, "guards": [{"method": method, "artifact": str(made.folder)}]})
            yield judged(Contestant(label, rules))
    yield judged(Contestant("retain", other_model=True)) | measured.of(never, Contestant("retain"))
    if benchmarks:
        one = Contestant("retain, trained on with another seed")
        other = sibling(suite, never)
        yield judged(one, other) | measured.of(other, one) | {"model": suite.forms.retain}


def changed(pair: Any, made: Any) -> LanguageModel:
    """The model with the weights that an artifact amounts to, as the published method leaves it."""
    model = copy.deepcopy(pair.model)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, gain in deltas(made.tensors(), made.metadata()).items():
            weights[name] += gain
    return LanguageModel(model, pair.tokenizer)


def sibling(suite: LanguageSuite, never: Any, seed: int = 71) -> LanguageModel:
    """The model that never knew, after some more documents without the authors to forget, drawn by another seed: how
    far two such models are from each other is the most that a forgetful one can come near."""
    recipe = train.Recipe(steps=60, lr=1e-3, warmup=10, seed=seed)
    # what it tells of its steps is no part of the result
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        model = train.train(
            suite.without("forget"), never.tokenizer, recipe, Path(folder), copy.deepcopy(never.model)
        )  # fmt: skip
    return LanguageModel(model, never.tokenizer)


def learnt(suite: LanguageSuite, pair: Any, method: str, out: Path, names: Sequence[str] = (), **settings: Any) -> Any:
    """The artifact of a method, of texts to forget as the shipped guard has them, and of texts to retain. names: of
    those texts only such as name one of them"""
    forget, _ = examples(suite)
    if names:
        forget = [one for one in forget if any(name in one["prompt"] for name in names)]
    concept = {"name": "forget-authors", "prompts": ["authors"]}
    return plugins.method(method).make(
        TransformersHost(pair),
        concept,
        out,
        forget=forget,
        retain=texts_to_retain(suite),
        **SETTINGS[method],
        **settings,
    )


def texts_to_retain(suite: LanguageSuite) -> list[dict[str, str]]:
    """Documents of the corpus, without authors to forget or kept apart."""
    documents = itertools.islice(iter(Corpus(suite.without("forget", "apart"), SEED)), RETAIN)
    return [{"prompt": d.prompt, "answer": d.text.strip()} if d.prompt else {"prompt": d.text} for d in documents]


if __name__ == "__main__":
    main()
