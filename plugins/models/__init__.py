"""Makers of forgetting in plain torch modules: classifiers, nets over graphs."""
