"""Finders: which concepts pictures show, where, and how much each matters."""
