"""Edits in closed form: where text enters a denoiser, which rows of an encoding are a concept's, and one solver."""

from .rows import Kind, Rows, Tokens, Wording, read_rows, wordings
from .solver import Edit, edited, solve, trimmed
from .streams import Stream, streams_of, tensors_of

__all__ = [
    "Edit",
    "Kind",
    "Rows",
    "Stream",
    "Tokens",
    "Wording",
    "edited",
    "read_rows",
    "solve",
    "streams_of",
    "tensors_of",
    "trimmed",
    "wordings",
]
