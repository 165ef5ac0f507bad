"""What `rocr` makes a model forget, and what even a redirection without any error would.

authors-lm is asked about its authors to forget in every form, in wordings that nobody made a guard with: as it is; with
`rocr` as published, at the last token of a name; with `rocr` at the name and whatever follows it, in templates that the
model was trained on, both open for every prompt; with the latter where the classifier of `guard` opens it. And with
what a name's tokens are after one of the model's layers replaced by what the target's are in the same prompt, the last
token alone or all of them, which is the most that any edit of these layers at these tokens could do.

    python -m tools.redirection --json FILE
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from conceptguard_plugins.language.rocr.read import tokens_of
from conceptguard_registry.build.authors_lm.redirection import classifier, solved, target, wide

import conceptguard
from conceptguard.hosts.transformers.host import TransformersHost
from conceptguard.measuring.language.evaluate import Contestant, answer, groups
from conceptguard.measuring.language.suite import load_language_suite
from conceptguard.policy_file import load_policy
from conceptguard.registry import write_artifact

from .rows import parser_of, write_rows

EACH = 6  # questions of every form and group
TOKENS = 24


def main() -> None:
    write_rows("redirection", judged_rows(), parser_of(__doc__).parse_args().json)


def judged_rows() -> Any:
    """A row for each edit, one after the other."""
    suite = load_language_suite()
    pair: Any = conceptguard.load_model("authors-lm")
    other = target(suite)
    asked = groups(suite, EACH)

    def judged(one: Contestant) -> list[float]:
        return [_share(p.questions, answer(pair.model, pair.tokenizer, p.questions, one).texts) for p in asked]

    yield _row("none", judged(Contestant("none")))
    with tempfile.TemporaryDirectory() as folder:
        made = solved(pair, suite, Path(folder))
        yield _row("rocr, the last token of a name", judged(_contestant(made.folder)))
        made = solved(pair, suite, Path(folder) / "wide", **wide(suite))
        yield _row("rocr, a name and all that follows it", judged(_contestant(made.folder)))
        gated = _with_classifier(made, Path(folder) / "gated")
        yield _row("the same, opened by the classifier of `guard`", judged(_contestant(gated)))
    named = [q for q in asked[0].questions if q.subject in q.prompt]
    yield _row("none, of prompts with the name as it is", [_share(named, _said(pair, named, _as_it_is))])
    for every in (False, True):
        for layer in range(pair.model.config.num_hidden_layers - 1):
            which = "all tokens" if every else "the last token"
            texts = _said(pair, named, _replaced(TransformersHost(pair), other, layer, every))
            yield _row(f"{which} replaced after layer {layer}", [_share(named, texts)])


def redirected(pair: Any, suite: Any, folder: Path) -> Path:
    """The artifact of all that follows a name, opened by the classifier."""
    return _with_classifier(solved(pair, suite, folder / "wide", **wide(suite)), folder / "gated")


def _contestant(folder: Path) -> Contestant:
    return Contestant("rocr", load_policy({"guards": [{"method": "rocr", "artifact": str(folder)}]}))


def _with_classifier(made: Any, folder: Path) -> Path:
    """The same terms beside the classifier of the forget set that ships, which training wordings alone have taught."""
    fields = made.manifest.model_dump(by_alias=True, exclude={"files", "binds"})
    write_artifact(folder, fields, {**made.tensors(), **classifier()}, metadata=made.metadata())
    return folder


def _row(edit: str, shares: Sequence[float]) -> dict[str, Any]:
    names = ("erased_after", "neighbours_after", "others_after")
    return {"method": edit, **dict(zip(names, shares))}


def _share(questions: Any, texts: Sequence[str]) -> float:
    return round(sum(q.answered(text) for q, text in zip(questions, texts)) / max(len(questions), 1), 4)


def _as_it_is(question: Any, ids: list[int], own: list[int]) -> None:
    return None


def _replaced(host: Any, target: str, layer: int, every: bool) -> Callable[..., Any]:
    """A question -> (layer, [(token, state)]): what the target's tokens are there in the same prompt."""

    def found(question: Any, ids: list[int], own: list[int]) -> Any:
        other, theirs = tokens_of(host, question.prompt.replace(question.subject, target), target)
        states = host.states([other], layer + 1)[0][theirs]
        led = [states[max(len(theirs) - len(own) + at, 0)] for at in range(len(own))]
        return layer, list(zip(own, led))[0 if every else -1 :]

    return found


def _said(pair: Any, questions: Any, replaced: Callable[..., Any]) -> list[str]:
    model, tok = pair
    host, texts = TransformersHost(pair), []
    for question in questions:
        ids, own = tokens_of(host, question.prompt, question.subject)
        change, handle = replaced(question, ids, own), None
        if change is not None:

            def put(module: Any, args: Any, states: Any, change: Any = change) -> None:
                for token, state in change[1] if states.shape[1] > 1 else ():
                    states[0, token] = state

            handle = model.model.layers[change[0]].register_forward_hook(put)
        try:
            out = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False)
        finally:
            if handle is not None:
                handle.remove()
        texts.append(tok.decode(out[0, len(ids) :], skip_special_tokens=True))
    return texts


if __name__ == "__main__":
    main()
