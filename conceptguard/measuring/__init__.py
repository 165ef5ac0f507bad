"""Judged evaluation: suites, samples, judges, cards and contact sheets."""
