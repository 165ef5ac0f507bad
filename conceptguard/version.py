"""Of this package; a leaf, so that whatever writes it down may read it."""

__version__ = "0.1.0"
