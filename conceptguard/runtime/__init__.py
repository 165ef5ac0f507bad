"""The low-rank runtime: terms beside layers, and the gates that open them."""
