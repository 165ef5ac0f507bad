"""Doco: a domain correction, in which a concept's predictions come to look like an anchor's."""
