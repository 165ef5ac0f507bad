"""emoji-captioner: says what it sees of the emoji world, and answers questions about it; a LLaVA trained on renderings."""
