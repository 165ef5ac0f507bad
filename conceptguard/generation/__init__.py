"""What the hooks of a generation are handed. A leaf: plain tensors and what is known of them."""
