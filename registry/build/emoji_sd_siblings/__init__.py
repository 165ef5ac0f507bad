"""Siblings of emoji-sd: the same model after a little more training, shipped as what changed, in low rank."""
