"""Feature neurons: neurons whose up-projection reads as a concept through the language-model head, clamped."""
