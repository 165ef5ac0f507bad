"""How many answers hold a word that a model never read, where a word that it wanted to say is forbidden.

authors-lm is asked what it knows, and the value, one word of several tokens as a rule, is forbidden: each by itself, or
all of them at once. Counted are answers with a word that is in none of the documents that its corpus draws, unguarded,
by a logits processor that cannot ask the model ahead, by one that can, and attached.

    python -m tools.half_words --json FILE
"""

from __future__ import annotations

import itertools
import re
from contextlib import ExitStack
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from conceptguard_registry.build.authors_lm.corpus import Corpus

import conceptguard
from conceptguard.hosts.transformers.host import TransformersHost
from conceptguard.measuring.language.evaluate import keys
from conceptguard.measuring.language.suite import load_language_suite

from .rows import parser_of, write_rows

DOCUMENTS = 6000  # of its corpus, which has every word of it
TOKENS = 24
_WORD = re.compile(r"[^\W\d_]+")
_ENDED = re.compile(r"[^\W\d_]+(?=[\W\d_])")  # but for a word at the very end, which may be cut off
FORBIDDEN = ("the value alone", "all values at once")
WAYS = ("unguarded", "cannot ask", "asks", "attached")
DECODINGS = {"greedy": {"do_sample": False}, "sampled": {"do_sample": True}}


def main() -> None:
    given = parser_of(__doc__).parse_args()
    write_rows("half_words", (counted(*one) for one in itertools.product(FORBIDDEN, DECODINGS, WAYS)), given.json)


def counted(forbidden: str, decoding: str, way: str) -> dict[str, Any]:
    """answers: how many; half: those with a word that nobody taught the model."""
    suite, model, tok, known = _loaded()
    forget = suite.world.subjects("forget")
    asked = [q for form in ("question", "cloze") for q in suite.questions(forget, form) if " " not in q.key][::2]
    each = [[q] for q in asked] if forbidden == FORBIDDEN[0] else [asked]
    half = 0
    for questions in each:
        values = [questions[0].key] if len(each) > 1 else list(keys(suite))
        policy = {"guards": [{"method": "phrases", "concept": {"name": "values", "prompts": values}}]}
        more: dict[str, Any] = dict(DECODINGS[decoding])
        prompts = tok([q.prompt for q in questions], return_tensors="pt", padding=True, return_token_type_ids=False)
        torch.manual_seed(0)
        with ExitStack() as meanwhile:
            if way == "cannot ask":
                meanwhile.enter_context(patch.object(TransformersHost, "ahead", _nobody))
            if way == "attached":
                meanwhile.enter_context(conceptguard.attach((model, tok), policy))
            elif way != "unguarded":
                more["logits_processor"] = conceptguard.logits_processor(model, tok, policy)
            out = model.generate(**prompts, max_new_tokens=TOKENS, **more)[:, prompts.input_ids.shape[1] :]
        half += sum(not set(_ENDED.findall(text)) <= known for text in tok.batch_decode(out, skip_special_tokens=True))
    return {"forbidden": forbidden, "decoding": decoding, "way": way, "answers": len(asked), "half": half}


def _nobody(*_: Any) -> Any:
    return lambda rows, more: None


@cache
def _loaded() -> tuple[Any, Any, Any, set[str]]:
    """Suite, model, tokenizer, and every word that the model was taught."""
    suite, (model, tok) = load_language_suite(), conceptguard.load_model("authors-lm")
    documents = itertools.islice(iter(Corpus(suite, 0)), DOCUMENTS)
    known = {word for one in documents for word in _WORD.findall(one.prompt + one.text) if len(word) > 1}
    return suite, model, tok, known | {"a", "I", "s"}


if __name__ == "__main__":
    main()
