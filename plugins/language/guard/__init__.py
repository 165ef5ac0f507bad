"""GUARD: a prompt that is after something forgotten goes on without its words (Deng et al., 2025)."""
