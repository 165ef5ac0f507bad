"""emoji-captioner: says what it sees of the emoji world and answers questions; a LLaVA trained on renderings."""
