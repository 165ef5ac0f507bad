"""Shares of few samples, and how far they can be trusted."""

from __future__ import annotations


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share, by default of 95 %. Of no samples it is all that a share can be."""
    if n == 0:
        return 0.0, 1.0
    share, spread = hits / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * ((share * (1 - share) + spread / 4) / n) ** 0.5
    return round(max(0.0, middle - half), 4), round(min(1.0, middle + half), 4)
