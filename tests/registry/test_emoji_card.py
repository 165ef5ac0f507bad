"""The card of emoji-sd says of every bar what was measured, and whether that is enough."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from conceptguard_registry.build.emoji_sd.card import bars, tables
from conceptguard_registry.build.emoji_sd.measure import Both, Figures

from conceptguard.registry import shipped_folder

CARD = (shipped_folder() / "models" / "emoji-sd" / "README.md").read_text(encoding="utf-8")


def measured() -> dict[str, Figures | Both]:
    """What stands in the card's tables."""
    found: dict[str, Figures | Both] = {}
    for line in CARD.splitlines():
        name, samples, *shares = [cell.strip() for cell in line.strip("|").split("|")] if line[:1] == "|" else ["", ""]
        if samples.isdigit():
            numbers = [float(share.rstrip("%")) / 100 if share else float("nan") for share in shares]
            if len(numbers) == 2:
                found[name] = Both(int(samples), *numbers)
            else:
                found[name] = Figures(int(samples), numbers[0], numbers[2], second=numbers[1])
    return found


def test_the_bars_are_of_the_figures_beside_them() -> None:
    psnr = re.search(r"not trained on: all ([\d.]+) dB", CARD)
    assert psnr and tables(measured()) in CARD and bars(measured(), {"all": float(psnr[1])}) in CARD


@pytest.mark.parametrize("name", ["trained pairs", "trained pairs, strangers' wordings"])
def test_a_bar_is_missed_in_either_kind_of_wordings(name: str) -> None:
    found = measured()
    one = found[name]
    assert isinstance(one, Figures) and "| objects | 93% | 93.1% | met |" in bars(found, {"all": 28.0})
    assert "| objects | 93% | 92.0% | missed |" in bars({**found, name: replace(one, object=0.92)}, {"all": 28.0})
    assert "| autoencoder | 28 dB | 27.9 dB | missed |" in bars(found, {"mono": 27.9, "noto": 30.0})
