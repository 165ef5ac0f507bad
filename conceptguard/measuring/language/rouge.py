"""ROUGE-L, as papers on unlearning report it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ...errors import PolicyError


def rouge_l(
    true: Sequence[str], said: Sequence[str], part: Literal["fmeasure", "recall"] = "fmeasure", stem: bool = False
) -> float:
    """The mean over pairs of texts. Raises PolicyError where rouge-score is not installed."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise PolicyError('ROUGE needs rouge-score: pip install "conceptguard[language]"') from None
    scorer = RougeScorer(["rougeL"], use_stemmer=stem)
    scores = [getattr(scorer.score(one, other)["rougeL"], part) for one, other in zip(true, said)]
    return round(sum(scores) / len(scores), 4)
