"""TRCE: the end tokens of a concept's prompts become those of a safe one's, and early steps turn away from it."""
