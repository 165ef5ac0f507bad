"""Which prompts are after something that is to be forgotten: told by their words, however they are spelled."""
