"""The same for language models."""
