"""Attacks: what tries to bring an erased concept back."""
