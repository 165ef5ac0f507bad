"""What `ssd` makes of models that draw and that write: weights dampened as published, for every prompt, beside the
control, as many weights of the same layers drawn at random and dampened as much.

Of emoji-sd a concept of the suite each, against its other objects; judged by the suite. Of authors-lm the authors to
forget, as tools.unlearned has them. Nothing was tuned on what is judged: alpha is the authors', of the language model
a range of them.

    python -m tools.dampened --json FILE
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conceptguard_plugins.models.ssd.method import SSD

import conceptguard
from conceptguard.measuring.language.evaluate import Contestant, answer, groups, judge
from conceptguard.measuring.language.suite import load_language_suite
from conceptguard.measuring.suite import load_suite
from conceptguard.plugins import host_for
from conceptguard.policy_file import load_policy

from .rows import parser_of, write_rows
from .unlearned import SETTINGS, changed, learnt

CONCEPTS, N = ("cigarette",), 4
ALPHAS, EACH = (30.0, 70.0, 100.0), 3  # and questions of every form and group
CONTROL = 70.0


def main() -> None:
    write_rows(
        "dampened", (row for part in (of_pictures(), of_texts()) for row in part), parser_of(__doc__).parse_args().json
    )


def of_pictures() -> Iterator[dict[str, Any]]:
    """Of each concept a row for each way, then one for the model as it is and one for nothing but white."""
    suite, pipe = load_suite("emoji-sd"), conceptguard.load_model("emoji-sd")
    with tempfile.TemporaryDirectory() as folder:
        policies, made = [], {}
        for concept in CONCEPTS:
            for chosen in ("fisher", "random"):
                about = {"name": concept, "prompts": suite.words(concept)}
                one = SSD.make(host_for(pipe), about, Path(folder) / chosen, chosen=chosen,
                               preserve=suite.words_beside([concept]))  # fmt: skip
                name = f"{concept} {chosen} always"
                guard = {"method": "ssd", "artifact": str(one.folder), "gate": "always"}
                policies.append(load_policy({"name": name, "guards": [guard]}))
                told = one.manifest.made
                made[name] = {"share": round(told["dampened"] / told["of"], 4), "bytes": one.size,
                              "make_seconds": told["seconds"]}  # fmt: skip
        for row in conceptguard.evaluate(pipe, *policies, suite="emoji-sd", n=N):
            yield {"model": "emoji-sd", **row, **made.get(row["method"], {})}


def of_texts() -> Iterator[dict[str, Any]]:
    """A row for each way."""
    suite = load_language_suite()
    pair, never = (conceptguard.load_model(one) for one in (suite.forms.base, suite.forms.retain))
    asked = groups(suite, EACH)
    before = [answer(pair.model, pair.tokenizer, part.questions, Contestant("none")) for part in asked]

    def judged(one: Contestant, who: Any = pair, made: Any = None) -> dict[str, Any]:
        told = made.manifest.made if made else {}
        share = {"share": round(told["dampened"] / told["of"], 4), "make_seconds": told["seconds"]} if told else {}
        return {"model": "authors-lm", **judge(who, never, suite, one, asked, before), **share}

    yield judged(Contestant("none"))
    with tempfile.TemporaryDirectory() as folder:
        for alpha in ALPHAS:
            for chosen in ("fisher", "random") if alpha == CONTROL else ("fisher",):
                SETTINGS["ssd"] = {"alpha": alpha, "chosen": chosen}
                made = learnt(suite, pair, "ssd", Path(folder) / f"{alpha:g}{chosen}")
                yield judged(Contestant(f"{alpha:g} {chosen} always"), changed(pair, made), made)
                if alpha == min(ALPHAS):
                    name = f"{alpha:g} {chosen} classifier"
                    rules = load_policy({"name": name, "guards": [{"method": "ssd", "artifact": str(made.folder)}]})
                    yield judged(Contestant(name, rules), pair, made)
    yield judged(Contestant("retain", other_model=True))


if __name__ == "__main__":
    main()
