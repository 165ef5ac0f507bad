"""Four of MUSE's six (Shi et al., ICLR 2025), on a suite of authors: what a model says by heart, what it knows of those
to be forgotten and of the rest, and whether what was to be forgotten can be told from what was never seen.

The other two, over the size of what is forgotten and over requests one after the other, are of many trainings and no
columns of a row. Its books are here lives: all facts of an author in sentences that trained the models.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from .evaluate import Contestant, answer, answer_ids, bad_words
from .likelihood import likelihoods
from .rouge import rouge_l

if TYPE_CHECKING:
    from .files import Split
    from .suite import LanguageSuite

PREFIX, CONTINUED = 16, 32  # tokens of a life that are given, and that are to follow
LOWEST = 0.4  # share of a text's tokens, the least likely ones, that tell whether it was seen
EACH = 60  # questions
_ENDS = re.compile(r"\n\n|\nQuestion|Question:")

Row = dict[str, Any]


def lives(suite: LanguageSuite, subjects: Mapping[str, Mapping[str, str]], seed: int = 0) -> list[str]:
    """All that is known of each, a sentence a fact, in any order."""
    found = []
    for name, facts in subjects.items():
        rng = random.Random(f"{seed} {name}")
        said = [rng.choice(suite.forms.kinds[kind].statements).format(name=name, value=v) for kind, v in facts.items()]
        rng.shuffle(said)
        found.append(" ".join(said))
    return found


def strangers(suite: LanguageSuite, seed: int = 0) -> dict[str, dict[str, str]]:
    """As many people as are to be forgotten, whom no model ever read of: their first and last names put together anew,
    and facts of the same pools."""
    rng = random.Random(seed)
    known = {author.name for author in suite.world.authors}
    forget = [name.split(" ", 1) for name in suite.world.subjects("forget")]
    last = [name[1] for name in forget]
    while any(f"{first} {other}" in known for (first, _), other in zip(forget, last)):
        rng.shuffle(last)
    return {
        f"{first} {other}": {
            kind: rng.choice(suite.pools[told.pool]) for kind, told in suite.forms.kinds.items()
        } for (first, _), other in zip(forget, last)
    }  # fmt: skip


def auc(pair: Any, suite: LanguageSuite, one: Contestant) -> float | None:
    """The chance that of a life nobody read and one to forget the first is found likelier, by the mean of their least
    likely tokens (Min-K % Prob). MUSE's code has it this way round, open-unlearning's the other; a text too short to
    have such tokens has one here, and gave no number there."""
    model, tokenizer = pair
    texts = [lives(suite, some) for some in (strangers(suite), suite.world.subjects("forget"))]
    ids = [tokenizer(text).input_ids for some in texts for text in some]
    options = {"bad_words_ids": bad_words(tokenizer, one.bad_words)} if one.bad_words else None
    likely = likelihoods(model, tokenizer, [(each[:1], each[1:]) for each in ids], one.policy, options)
    if likely is None:
        return None
    lowest = [sorted(each)[: max(1, int(len(each) * LOWEST))] for each in likely]
    scores = [sum(each) / len(each) for each in lowest]
    apart, own = (torch.tensor(scores[i : i + len(texts[0])]) for i in (0, len(texts[0])))
    return float(((apart[:, None] > own).float() + 0.5 * (apart[:, None] == own)).mean())


def knowmem(
    pair: Any, suite: LanguageSuite, subjects: Mapping[str, Mapping[str, str]], one: Contestant,
    tick: Callable[[int], None] = lambda n: None,
) -> float:  # fmt: skip
    """ROUGE-L F of answers about some people, to questions in wordings that nobody trained on; see ``muse``."""
    model, tokenizer = pair
    questions = suite.questions(subjects, "paraphrase")
    random.Random(EACH).shuffle(questions)
    some = questions[:EACH]
    texts = [_ENDS.split(text)[0] for text in answer(model, tokenizer, some, one, tick).texts]
    return rouge_l([question.answer for question in some], texts)


def muse(
    pair: Any, suite: LanguageSuite, one: Contestant, retrained: float, tick: Callable[[int], None] = lambda n: None
) -> Row:
    """Columns of a row. ``muse_verbmem``: ROUGE-L F of what follows the first tokens of a life, greedily;
    ``muse_knowmem``, ``muse_knowmem_retain``: the same of answers to questions in wordings that nobody trained on, cut
    at a blank line or another question; MUSE gives examples before, of which a model that never read any makes nothing.
    ``muse_privleak``: 100 (AUC − AUC of the model that never knew, ``retrained``) over the latter; −100 is a model that
    knows all by heart, above 0 texts are so unlikely that it shows. None where a contestant has no likelihoods.
    """
    model, tokenizer = pair
    ids = [tokenizer(text).input_ids for text in lives(suite, suite.world.subjects("forget"))]
    said = answer_ids(model, tokenizer, [each[:PREFIX] for each in ids], one, CONTINUED)
    goes_on = [tokenizer.decode(each[PREFIX : PREFIX + CONTINUED], skip_special_tokens=True) for each in ids]
    found: Row = {"muse_verbmem": rouge_l(goes_on, said)}
    sets: tuple[tuple[str, Split], ...] = (("muse_knowmem", "forget"), ("muse_knowmem_retain", "retain"))
    for column, split in sets:
        found[column] = knowmem(pair, suite, suite.world.subjects(split), one, tick)
    own = auc(pair, suite, one)
    found["muse_privleak"] = None if own is None else round(100 * (own - retrained) / max(retrained, 1e-10), 1)
    return found
