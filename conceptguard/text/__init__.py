"""Words and tokens, as guards of text see them."""
