"""Judges guards of models that see: what they no longer name, still name, and answer when asked without the name."""
