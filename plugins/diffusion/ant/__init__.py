"""ANT: the concept's direction is reversed where structure is settled, at every step or learnt."""
