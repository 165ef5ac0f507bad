"""The transformers host."""
