"""Geom-Erasing: what pictures carry unasked is named with its place while a model learns, and never again."""
