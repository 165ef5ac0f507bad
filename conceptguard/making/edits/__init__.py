"""Edits in closed form: where text enters a denoiser, which rows of an encoding are a concept's, and one solver."""

from .derive import brought_back
from .each import rows_of_each
from .free import directions, how_many_fit, solve_free
from .problem import Problem
from .rotate import rotate
from .rows import (
    Kind,
    Place,
    Rows,
    Tokens,
    Wording,
    channels,
    check_texts,
    read_places,
    read_rows,
    runs_of,
    sample,
    together,
    wordings,
)
from .solver import Edit, edited, products, solve, trimmed
from .streams import Stream, streams_of, tensors_of
from .synonyms import synonyms, with_synonyms

__all__ = [
    "Edit",
    "Kind",
    "Place",
    "Problem",
    "Rows",
    "Stream",
    "Tokens",
    "Wording",
    "brought_back",
    "channels",
    "check_texts",
    "directions",
    "edited",
    "how_many_fit",
    "products",
    "read_places",
    "read_rows",
    "rotate",
    "rows_of_each",
    "runs_of",
    "sample",
    "solve",
    "solve_free",
    "streams_of",
    "synonyms",
    "tensors_of",
    "together",
    "trimmed",
    "with_synonyms",
    "wordings",
]
