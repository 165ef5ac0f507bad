"""emoji-encoder: reads pictures and texts of the emoji world into one space, as CLIP does; trained on renderings."""
