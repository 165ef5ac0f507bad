"""What methods for language models catch of a name that a model is forced to say, in every spelling.

A Llama with random weights is made to want one spelling: each of its tokens gets a score far above all others, as long
as nobody takes it away. Judged is the text that leaves, as a reader sees it (``measuring.language.forced``); a spelling
that a reader would not take for the name by its letters (leetspeak, backwards) counts as said where it comes out whole.

    python -m tools.spellings --json FILE
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
from transformers import LogitsProcessor, LogitsProcessorList  # noqa: E402

import conceptguard  # noqa: E402
from conceptguard import __version__  # noqa: E402
from conceptguard.measuring.language.forced import SPELLINGS, says  # noqa: E402

PROMPT = "Who wrote Frozen Compass?"
WANTED = 60.0  # by how much the next token of the spelling is above all others


class Insists(LogitsProcessor):
    """A model that wants to say these tokens, one after the other."""

    def __init__(self, ids: list[int], begin: int):
        self._ids, self._begin = ids, begin

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        at = input_ids.shape[1] - self._begin
        if at < len(self._ids):
            scores[:, self._ids[at]] += WANTED
        return scores


def columns(name: str) -> dict[str, tuple[str, dict[str, Any], bool]]:
    """What is tried: (kind of tokenizer, policy, whether attached)."""
    phrases = {"guards": [{"method": "phrases", "concept": {"name": "name", "prompts": [name]}}]}
    sentence = {"guards": [{"method": "sentence_check", "concept": {"name": "name", "prompts": [f"It is by {name}."]}}]}
    forget = {"guards": [{"method": "guard", "artifact": "authors-lm/guard/forget-authors", "threshold": 1e-6}]}
    return {
        "`phrases`, processor": ("authors", phrases, False), "`phrases`, attached": ("authors", phrases, True),
        "`phrases`, bytes of sentencepiece": ("sentencepiece", phrases, True),
        "`guard`, processor": ("authors", forget, False), "`guard`, attached": ("authors", forget, True),
        "`sentence_check`, attached": ("authors", sentence, True),
    }  # fmt: skip


def said(pair: Any, policy: Any, attached: bool, text: str) -> str:
    """What leaves of a text that the model insists on."""
    model, tok = pair
    given = tok([PROMPT], return_tensors="pt", return_token_type_ids=False)
    ids = tok(f" It is by {text}.", add_special_tokens=False).input_ids
    begin = given.input_ids.shape[1]
    wants = LogitsProcessorList([Insists(ids, begin)])
    more = {"max_new_tokens": len(ids), "do_sample": False, "pad_token_id": tok.eos_token_id}
    if attached:
        with conceptguard.attach((model, tok), policy):
            out = model.generate(**given, **more, logits_processor=wants)
    else:
        wants += conceptguard.logits_processor(model, tok, policy)
        out = model.generate(**given, **more, logits_processor=wants)
    return str(tok.decode(out[0, begin:], skip_special_tokens=True))


def rows(report: Callable[[Any], None] = print) -> Iterator[dict[str, Any]]:
    """A row for every spelling and column."""
    from tiny_language import tiny_llama, tokenizer

    from conceptguard.measuring.language.suite import load_language_suite

    subjects = load_language_suite().world.subjects("forget")
    name = next(n for n in subjects if " " in n)
    authors = conceptguard.load_model("authors-lm")
    pieces = tokenizer("sentencepiece")
    pairs = {"authors": tuple(authors), "sentencepiece": (tiny_llama(pieces), pieces)}
    for column, (kind, policy, attached) in columns(name).items():
        for form, spell in SPELLINGS.items():
            text = spell(name)
            left = said(pairs[kind], policy, attached, text)
            out = says(name, left) or text in left
            report((column, form, left, out))
            yield {"form": form, "example": text, "column": column, "result": "said" if out else "caught"}


def main() -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", required=True, metavar="FILE")
    given = parser.parse_args()
    begin = time.perf_counter()
    result = {
        "command": "spellings", "version": __version__, "device": "cpu", "rows": list(rows()),
        "seconds": round(time.perf_counter() - begin, 1),
    }  # fmt: skip
    Path(given.json).write_text(json.dumps(result, ensure_ascii=False, indent=1), "utf-8")


if __name__ == "__main__":
    main()
