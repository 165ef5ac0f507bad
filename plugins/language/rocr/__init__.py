"""Null-space projected rank-one redirection (ROCR): what a model makes of one name becomes what it makes of another."""
