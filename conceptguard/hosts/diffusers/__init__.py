"""The diffusers host."""
