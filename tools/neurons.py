"""What taking single neurons away makes a model forget, found by reading them and found by what answers owe to them.

Artifacts of one author each are made of authors-lm, from questions in wordings that trained it; each is open for every
prompt, as new weights would be, and judged in wordings that no maker saw: what is still answered about the author,
about other authors and about places. Beside them as many neurons at random, of the same layers. And how many of all
authors to forget have a single vector that matters to answers about them at all.

    python -m tools.neurons concept_vectors --json FILE
    python -m tools.neurons coverage --json FILE
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from conceptguard_plugins.language.concept_vectors.select import Choosing, Vectors
from conceptguard_plugins.language.neurons.blocks import feed_forward_of
from conceptguard_plugins.language.neurons.judged import drawn
from conceptguard_plugins.language.neurons.terms import Neuron, removed

import conceptguard
from conceptguard import plugins
from conceptguard.concept import as_concept
from conceptguard.formats.beside import write_beside
from conceptguard.hosts.transformers.host import TransformersHost
from conceptguard.making.progress import unseen
from conceptguard.measuring.language.evaluate import Contestant, answer
from conceptguard.measuring.language.suite import Question, load_language_suite
from conceptguard.policy_file import load_policy
from conceptguard.registry import write_artifact

from .rows import parser_of, write_rows

AUTHORS = 3  # of those to forget, one artifact each
TRIED = 32  # vectors of each author, one by one
BESIDE = 30  # questions about other authors, and about places
FORMS = ("question", "cloze", "paraphrase", "completion", "template")
HEAD: dict[str, Any] = {"ranked": "head", "candidates": 32}

# What each method is made with: label -> options. The last one's number of neurons is drawn at random as well.
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "concept_vectors": {
        "one, read through the head": {**HEAD, "count": 1},
        "the same, shaken by noise of 0.1": {**HEAD, "count": 1, "noise": 0.1},
        "32, read through the head": {**HEAD, "count": 32},
        "32, by what answers owe to them": {"count": 32},
        "128, by what answers owe to them": {"count": 128},
    },
    "feature_neurons": {
        "one, silenced": {"count": 1},
        "one, held at 100": {"count": 1, "clamp": 100.0},
        "16, silenced, read without the final norm": {"count": 16, "normed": False},
        "16, silenced": {"count": 16},
        "128, silenced": {"count": 128},
    },
}
RANDOM = "as many at random, of the same layers"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("method", choices=[*ROWS, "coverage"])
    given = parser.parse_args()
    rows = [coverage()] if given.method == "coverage" else judged_rows(given.method)
    write_rows("neurons", rows, given.json)


def judged_rows(which: str, last: bool = False, authors: int = AUTHORS) -> Iterator[dict[str, Any]]:
    """A row for each way of a method, one after the other. last: only the last one, beside none and chance."""
    method = plugins.method(which)
    suite = load_language_suite()
    pair: Any = conceptguard.load_model("authors-lm")
    host: Any = TransformersHost(pair)
    forget, retain = suite.world.subjects("forget"), suite.world.subjects("retain")
    chosen = list(forget)[:: len(forget) // authors][:authors]
    beside = _some(suite, suite.world.subjects("apart")), _some(suite, suite.world.places)
    own = {name: _asked(suite, {name: forget[name]}, "judge") for name in chosen}
    known = dict(list(retain.items())[:12])

    def judged(policies: dict[str, Any]) -> dict[str, Any]:
        """Answers about each author under its own policy, and about everybody else under each of these."""
        groups: list[list[bool]] = [[], [], []]
        for name in chosen:
            for group, questions in zip(groups, (own[name], *beside)):
                texts = answer(pair.model, pair.tokenizer, questions, Contestant("it", policies.get(name))).texts
                group += [question.answered(text) for question, text in zip(questions, texts)]
        keys = ("erased_after", "neighbours_after", "others_after")
        return {key: round(sum(group) / len(group), 4) for key, group in zip(keys, groups)}

    yield {"method": "none", **judged({})}
    with tempfile.TemporaryDirectory() as folder:
        made: dict[str, Any] = {}
        for n, (label, options) in enumerate(list(ROWS[which].items())[-1 if last else 0 :]):
            for name in chosen:
                examples = {"forget": _examples(suite, {name: forget[name]}, 4), "retain": _examples(suite, known, 1)}
                given = {**examples, **options, "verify": False, "progress": False}
                made[name] = method.make(host, name, Path(folder) / str(n), **given)
            yield {"method": label, **judged({name: _policy(one) for name, one in made.items()})}
        control = {name: _policy(_at_random(host, one, Path(folder) / "random" / name)) for name, one in made.items()}
        yield {"method": RANDOM, **judged(control)}


def coverage() -> dict[str, Any]:
    """Of all authors to forget, how many have a vector without which alone an answer loses a nat: of those that the
    head names first and those that answers owe most to."""
    suite = load_language_suite()
    host: Any = TransformersHost(conceptguard.load_model("authors-lm"))
    forget, retain = suite.world.subjects("forget"), dict(list(suite.world.subjects("retain").items())[:12])
    most = []
    for name in forget:
        examples = {"forget": _examples(suite, {name: forget[name]}, 4), "retain": _examples(suite, retain, 1)}
        vectors = Vectors(host, as_concept(name), Choosing(**examples, count=TRIED // 2, rounds=1), "coverage")
        neurons, scores, _ = vectors.by_head(1)
        by_head = sorted(neurons, key=dict(zip(neurons, scores)).__getitem__, reverse=True)[: TRIED // 2]
        by_effect = vectors.chosen(lambda *_: nullcontext(unseen))
        most.append(max(vectors.lost([*by_head, *by_effect], unseen)))
    found = {"authors": len(most), "tried": TRIED, "with_one": sum(lost >= 1.0 for lost in most)}
    return {"method": "coverage", **found, "most": round(max(most), 3)}


def _asked(suite: Any, subjects: Any, wordings: Any, seed: int = 0) -> list[Question]:
    return [one for form in FORMS for one in suite.questions(subjects, form, seed=seed, wordings=wordings)]


def _some(suite: Any, subjects: Any) -> list[Question]:
    """Questions about others, evenly over who and what they are about."""
    return random.Random(0).sample(_asked(suite, subjects, "judge"), BESIDE)


def _examples(suite: Any, subjects: Any, wordings: int) -> list[dict[str, str]]:
    """Questions with their answers, in wordings that trained the model, in an order that mixes them."""
    found = [one for seed in range(wordings)
             for one in suite.questions(subjects, "question", seed=seed, wordings="train")]  # fmt: skip
    found += suite.questions(subjects, "cloze", wordings="train")
    random.Random(0).shuffle(found)
    return [{"prompt": one.prompt, "answer": one.answer} for one in found]


def _policy(artifact: Any) -> Any:
    return load_policy({"guards": [{"method": artifact.manifest.method, "artifact": str(artifact.folder)}]})


def _at_random(host: Any, artifact: Any, folder: Path) -> Any:
    """An artifact of as many others of the same layers."""
    blocks = feed_forward_of(host, [], "a control")
    widths = {block.number: host.layers()[block.down].in_features for block in blocks}
    made = artifact.manifest.made
    neurons = [Neuron(*one) for one in made.get("vectors", made.get("neurons"))]
    tensors, metadata = write_beside(removed(host, blocks, drawn(widths, neurons, 0)))
    fields = artifact.manifest.model_dump(by_alias=True, exclude={"files", "binds"})
    return write_artifact(folder, fields, tensors, metadata=metadata)


if __name__ == "__main__":
    main()
