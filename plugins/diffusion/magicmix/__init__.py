"""MagicMix: the layout of one prompt or picture, the content of another."""
