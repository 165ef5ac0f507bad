"""UCE: the cross-attention keys and values of a concept become those of its guide, in closed form."""
