"""Concept vectors: the columns of feed-forward layers that hold a concept, found, verified and taken away."""
