"""A watermark that the published package wrote is read, and nothing else is taken for it."""

from __future__ import annotations

import math

import pytest
import torch
from conceptguard_plugins.pictures.watermark import CHANCE, beyond_chance, bits_of, read
from drawn import look, tensor
from paths import DATA
from PIL import Image

from conceptguard.errors import PolicyError, Refused

PAYLOAD = "guardian"
# What the package itself reads from these files: of dwtDct not all that it wrote.
THEIRS = {
    "dwtDct": "0110011101110101011110110111001101110100011110111111101111101110",
    "dwtDctSvd": "0110011101110101011000010111001001100100011010010110000101101110",
}


def marked(scheme: str) -> torch.Tensor:
    """A picture in which the package wrote the payload."""
    return tensor(Image.open(DATA / f"watermark_{scheme.lower()}.png"))


@pytest.mark.parametrize("scheme", THEIRS)
def test_bits_are_those_that_the_package_reads(scheme: str) -> None:
    found = read(marked(scheme), 64, scheme)
    assert found is not None and "".join(str(int(bit)) for bit in found[0]) == THEIRS[scheme]


@pytest.mark.parametrize("scheme", THEIRS)
def test_its_payload_is_found_and_no_other(scheme: str) -> None:
    picture = marked(scheme)
    guard = {"method": "watermark", "scheme": scheme, "payload": PAYLOAD}
    after, receipt = look(guard, torch.cat([picture.flip(-1), picture]), "black")
    plain, mine = receipt.verdicts
    assert not plain.flagged and torch.equal(after[:1], picture.flip(-1))
    assert mine.flagged and mine.label == "watermark" and mine.detector == scheme and not after[1].any()
    right = sum(a == b for a, b in zip(THEIRS[scheme], map(str, bits_of(PAYLOAD))))
    assert mine.score == pytest.approx(right / 64)
    assert not look({**guard, "payload": "stranger"}, picture)[1].verdicts[0].flagged
    with pytest.raises(Refused, match="shows watermark"):
        look(guard, picture, "reject")
    if scheme == "dwtDct":
        assert not look({**guard, "threshold": 1}, picture)[1].verdicts[0].flagged


def test_unmarked_pictures_are_not_taken_for_marked_ones() -> None:
    """Of noise, and of planes and stripes, in which all blocks say the same."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(24, 3, 32, 32, generator=random)
    noise = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear")
    stripes = torch.rand(4, 3, 1, 256, generator=random).expand(-1, -1, 256, -1)
    planes = torch.linspace(0, 1, 12)[:, None, None, None].expand(-1, 3, 256, 256)
    for payload in (PAYLOAD, "0x2f91c4d3", "0b110100101101001110010"):
        for scheme in THEIRS:
            guard = {"method": "watermark", "payload": payload, "scheme": scheme}
            verdicts = look(guard, torch.cat([noise, stripes, planes]))[1].verdicts
            assert not [v for v in verdicts if v.flagged]
            assert sum(v.score for v in verdicts) / len(verdicts) == pytest.approx(0.5, abs=0.15)


def test_a_picture_too_small_for_the_payload_carries_none() -> None:
    guard = {"method": "watermark", "payload": PAYLOAD, "scheme": "dwtDctSvd"}
    for shape in ((1, 1), (8, 8), (56, 64), (7, 16_000)):
        (verdict,) = look(guard, torch.rand(1, 3, *shape))[1].verdicts
        assert not verdict.flagged and verdict.score == 0
    assert look(guard, torch.rand(1, 3, 64, 65))[1].verdicts[0].score > 0


@pytest.mark.parametrize("count", [20, 32, 48, 136])
def test_the_threshold_is_what_chance_gives_once_in_a_million(count: int) -> None:
    right = round(beyond_chance(count) * count)
    tails = [sum(math.comb(count, k) for k in range(least, count + 1)) / 2**count for least in (right, right - 1)]
    assert tails[0] <= CHANCE < tails[1] and right <= count


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ("us", "16 bits is found everywhere"), ("0b0101201010101010101010101", "0 and 1"), ("0x12345", "pairs of"),
        ("0x00000000000000000001", "plain picture"), ("", "0 bits"),
    ],
)  # fmt: skip
def test_payloads_that_tell_nothing_are_refused(payload: str, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        look({"method": "watermark", "payload": payload}, torch.ones(1, 3, 8, 8))
    with pytest.raises(PolicyError, match="payload"):
        look({"method": "watermark"}, torch.ones(1, 3, 8, 8))
