"""SSD: weights that matter more to what is to be forgotten than to everything together are dampened."""
