"""A-STAR: keeps the attention of a prompt's concepts apart, and lets each keep what it had."""
