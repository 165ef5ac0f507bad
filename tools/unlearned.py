"""What `npo`, `simnpo` and `rmu` make authors-lm forget, beside the model as it is and the one that never knew.

Trained on wordings that trained the model, of its authors to forget and of those to retain; authors kept apart are in
neither. Asked in every form, in wordings that no maker saw. Each is judged open for every prompt, which is the
published method, and opened by the classifier that it learnt from the same texts.

    python -m tools.unlearned --json FILE
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conceptguard_registry.build.authors_lm.corpus import Corpus
from conceptguard_registry.build.authors_lm.guards import examples

import conceptguard
from conceptguard import plugins
from conceptguard.cli.output import result, write_json
from conceptguard.hosts.transformers.host import TransformersHost
from conceptguard.measuring.language.evaluate import Contestant, answer, groups, judge
from conceptguard.measuring.language.suite import LanguageSuite, load_language_suite
from conceptguard.policy_file import load_policy

EACH = 6  # questions of every form and group
RETAIN = 3000  # documents of the corpus, without authors to forget or kept apart
SEED = 5

# Found on the suite's wordings to tune on.
SETTINGS: dict[str, dict[str, Any]] = {
    "npo": {"steps": 150, "batch": 8, "retain_weight": 10.0},
    "simnpo": {"steps": 150, "batch": 8},
    "rmu": {"steps": 60, "batch": 8, "layer": 1, "lr": 3e-3, "retain_weight": 5.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="-", help="where the result goes; - is standard output")
    begin, given, rows = time.perf_counter(), parser.parse_args(), []
    for row in judged_rows():
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    write_json(result("unlearned", rows, time.perf_counter() - begin), given.json)


def judged_rows(methods: tuple[str, ...] = tuple(SETTINGS)) -> Iterator[dict[str, Any]]:
    """A row for each way, one after the other."""
    suite = load_language_suite()
    pair: Any = conceptguard.load_model(suite.forms.base)
    never: Any = conceptguard.load_model(suite.forms.retain)
    asked = groups(suite, EACH)
    before = [answer(pair.model, pair.tokenizer, part.questions, Contestant("none")) for part in asked]

    def judged(one: Contestant) -> dict[str, Any]:
        return judge(pair, never, suite, one, asked, before)

    yield judged(Contestant("none"))
    with tempfile.TemporaryDirectory() as folder:
        for method in methods:
            made = learnt(suite, pair, method, Path(folder))
            for label, gate in ((method, "always"), (f"{method}, opened by its classifier", "prompt")):
                guard = {"method": method, "artifact": str(made.folder), "gate": gate}
                row = judged(Contestant(label, load_policy({"name": label, "guards": [guard]})))
                yield row | {"make_seconds": made.manifest.made["seconds"], "bytes": made.size}
    yield judged(Contestant("retain", other_model=True))


def learnt(suite: LanguageSuite, pair: Any, method: str, out: Path) -> Any:
    """The artifact of a method, of texts to forget as the shipped guard has them, and of texts to retain."""
    forget, _ = examples(suite)
    documents = itertools.islice(iter(Corpus(suite.without("forget", "apart"), SEED)), RETAIN)
    retain = [{"prompt": d.prompt, "answer": d.text.strip()} if d.prompt else {"prompt": d.text} for d in documents]
    concept = {"name": "forget-authors", "prompts": ["authors"]}
    return plugins.method(method).make(
        TransformersHost(pair), concept, out, forget=forget, retain=retain, **SETTINGS[method]
    )


if __name__ == "__main__":
    main()
