"""One policy at work on one host."""
