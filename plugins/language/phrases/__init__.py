"""A bank of phrases that must not be said, matched on text: up to 100,000 and more, at the same cost a token."""
