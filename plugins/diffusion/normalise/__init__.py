"""Reads a prompt as a person would, before anything else reads it."""
