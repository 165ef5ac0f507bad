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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import conceptguard  # noqa: E402
from conceptguard import __version__  # noqa: E402
from conceptguard.measuring.language.forced import SPELLINGS, says  # noqa: E402

PROMPT = "Who wrote Frozen Compass?"
WANTED = 60.0  # by how much the next token of the spelling is above all others


@contextmanager
def insisting(model: Any, ids: list[int], begin: int) -> Iterator[None]:
    """Meanwhile the model itself wants to say these tokens, one after the other, ``begin`` tokens into a text. A logits
    processor could not say so for it: beside a caller's own nothing is taken back."""

    def wants(module: Any, args: Any, kwargs: dict[str, Any], answer: Any) -> None:
        cache = answer.past_key_values
        at = (cache.get_seq_length() if cache is not None else kwargs["input_ids"].shape[1]) - begin
        if 0 <= at < len(ids):
            answer.logits[:, -1, ids[at]] += WANTED

    handle = model.register_forward_hook(wants, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


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
    more = {"max_new_tokens": len(ids), "do_sample": False, "pad_token_id": tok.eos_token_id}
    with insisting(model, ids, begin):
        if attached:
            with conceptguard.attach((model, tok), policy):
                out = model.generate(**given, **more)
        else:
            bare = conceptguard.logits_processor(model, tok, policy)
            out = model.generate(**given, **more, logits_processor=bare)
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
