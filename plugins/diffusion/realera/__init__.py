"""RealEra: a concept's neighbours are erased with it, and what lies beyond them is held."""
