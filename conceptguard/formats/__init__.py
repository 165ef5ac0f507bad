"""Published formats: what an artifact's tensors mean, whoever wrote them, and how to write them for others."""

from conceptguard.formats.edit import write_edit
from conceptguard.formats.read import detect_format, read_artifact, read_terms
from conceptguard.formats.weights import read_weights_of
from conceptguard.formats.write import to_diffusers, to_kohya, to_uce

__all__ = [
    "detect_format",
    "read_artifact",
    "read_terms",
    "read_weights_of",
    "to_diffusers",
    "to_kohya",
    "to_uce",
    "write_edit",
]
