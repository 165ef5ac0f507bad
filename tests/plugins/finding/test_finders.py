"""What finders are made of, and what they make of bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conceptguard_plugins.finding.dictionaries import EXTRACTIONS, halves, nmf, whole
from conceptguard_plugins.finding.importance import IMPORTANCES, sobol
from conceptguard_plugins.finding.sae import train
from small_planted import encoder, found, planted, search

from conceptguard.errors import PolicyError, RegistryError
from conceptguard.finder import PictureSet
from conceptguard.finding.crops import Crops, cut, part, places
from conceptguard.plugins import offers

QUICK = {
    "dn_cbm": {"steps": 60, "probe_steps": 40}, "craft": {"recurse": 1}, "blindspots": {"steps": 40, "runs": 1},
    "sparse_cbm": {"steps": 40},
}  # fmt: skip
FINDERS = ("craft", "lens", "dn_cbm", "pca", "random_directions")
OF_CLASSES = ("blindspots", "confounders", "csr", "ecbm", "sparse_cbm")


def rows_of(k: int = 4, n: int = 300, width: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that are sums of a few of k directions, none negative, and the amounts."""
    random = torch.Generator().manual_seed(3)
    amounts = torch.rand(n, k, generator=random) * (torch.rand(n, k, generator=random) < 0.4)
    return amounts @ torch.rand(k, width, generator=random), amounts


def test_factorisation_finds_what_rows_were_made_of() -> None:
    rows, _ = rows_of()
    made = nmf(rows, 4, torch.Generator().manual_seed(0))
    amounts = made.encode(rows)
    assert float(amounts.min()) >= 0 and float(made.directions.min()) >= 0
    assert float((rows - amounts @ made.directions).norm() / rows.norm()) < 0.05


def test_factorisation_is_as_near_as_scikit_learns() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    rows = torch.rand(200, 30, generator=torch.Generator().manual_seed(0))
    made = nmf(rows, 8, torch.Generator().manual_seed(0))
    ours = float((rows - made.encode(rows) @ made.directions).norm())
    theirs = decomposition.NMF(8, init="nndsvda", random_state=0, max_iter=400).fit(rows.numpy()).reconstruction_err_
    assert ours <= 1.01 * theirs


def test_halves_lose_nothing() -> None:
    rows = torch.randn(5, 7)
    assert float(halves(rows).min()) >= 0 and torch.equal(whole(halves(rows)), rows)


def test_more_directions_than_rows_are_fewer() -> None:
    rows = torch.rand(6, 9)
    for name, extract in EXTRACTIONS.items():
        made = extract(rows, 50, torch.Generator().manual_seed(0))
        assert bool(made.encode(rows).isfinite().all()), name
        assert name == "random" or len(made.directions) <= 18, name


def test_sobol_indices_of_a_sum_are_squares() -> None:
    """For y = Σ m c the total index is c² / Σ c², whatever the masks' distribution."""
    parts = torch.tensor([[3.0, 1.0, 0.0, -2.0]])
    wanted = parts.square() / parts.square().sum()
    estimates = torch.cat([sobol(parts, seed) for seed in range(20)])
    assert torch.allclose(estimates.mean(0), wanted[0], atol=0.06)
    assert float(estimates[:, 2].abs().max()) < 1e-6, "what adds nothing matters nothing"


def test_gradients_and_leaving_out_agree() -> None:
    parts = torch.randn(6, 5)
    assert torch.allclose(IMPORTANCES["gradient_input"](parts, 0), IMPORTANCES["left_out"](parts, 0))


def test_an_autoencoder_uses_few_and_all() -> None:
    rows = torch.nn.functional.normalize(rows_of(6, 600)[0] + 0.01, dim=1)
    model = train(rows, 8, 2, 400, torch.Generator().manual_seed(0), lambda step, loss: None)
    codes, again = model(rows)
    assert int((codes > 0).sum(1).max()) <= 2
    assert float((rows - again).norm() / (rows - rows.mean(0)).norm()) < 0.5
    assert float((codes > 0).any(0).float().mean()) >= 0.75, "no more than a quarter of its directions is dead"


def test_crops_come_back_to_their_places() -> None:
    boxes = places(0.375, 0.34)
    assert float(boxes.min()) == 0 and abs(float(boxes.max()) - 1) < 1e-6
    picture = torch.zeros(1, 3, 128, 128)
    picture[..., :40, 88:] = 1
    crops = cut(picture, boxes)
    maps = Crops(torch.zeros(1, len(boxes), 4), boxes).maps(crops.mean((1, 2, 3))[None])
    assert divmod(int(maps[0].argmax()), 16)[0] <= 2 and divmod(int(maps[0].argmax()), 16)[1] >= 13


def test_mixed_concepts_are_taken_apart() -> None:
    whole_ones, apart = (found("craft", concepts=12, recurse=times) for times in (0, 2))
    pieces = [one for one in apart.concepts if one.part_of]
    assert not [one for one in whole_ones.concepts if one.part_of] and 2 <= len(pieces) <= 6
    for piece in pieces:
        assert 0 < int((piece.scores > 0).sum()) < 48, "a piece is where the whole is strong, and not everywhere"


@pytest.mark.parametrize("name", FINDERS)
def test_the_same_seed_finds_the_same(name: str) -> None:
    one, other = (found(name, concepts=5, **QUICK.get(name, {})).rows for _ in range(2))
    assert one == other and 1 <= len(one) <= 32


@pytest.mark.parametrize("name", FINDERS)
def test_no_more_are_shown_than_a_person_looks_through(name: str) -> None:
    assert len(found(name, concepts=40, **QUICK.get(name, {})).concepts) <= 32
    with pytest.raises(ValueError, match="less than or equal to 32"):
        offers("finders")[name].FindSettings(shown=33)


def same(n: int) -> PictureSet:
    pixels = planted().pictures.pixels[:1].expand(n, -1, -1, -1)
    return PictureSet(pixels, [str(i) for i in range(n)], [""] * n)


def flat(n: int) -> PictureSet:
    """Grounds of many greys, and one picture that shows something."""
    greys = torch.linspace(180, 255, n).byte().view(-1, 1, 1, 1).expand(-1, 3, 128, 128).contiguous()
    greys[0] = planted().pictures.pixels[0]
    return PictureSet(greys, [str(i) for i in range(n)], [""] * n)


def saved_again(n: int) -> PictureSet:
    """One picture, as a lossy format gives it back each time."""
    noise = torch.randint(-2, 3, (n, 3, 128, 128), generator=torch.Generator().manual_seed(0))
    pixels = (planted().pictures.pixels[:1].int() + noise).clamp(0, 255).byte()
    return PictureSet(pixels, [str(i) for i in range(n)], ["a", "b"] * (n // 2))


def noise(n: int) -> PictureSet:
    pixels = torch.randint(256, (n, 3, 128, 128), generator=torch.Generator().manual_seed(0)).byte()
    return PictureSet(pixels, [str(i) for i in range(n)], ["a"] * (n // 2) + ["b"] * (n // 2))


def beside(pixels: torch.Tensor) -> PictureSet:
    """A class of what is planted, and one of something else."""
    it = planted().pictures
    both = torch.cat([it.pixels[:12], pixels])
    return PictureSet(both, [str(i) for i in range(len(both))], ["a"] * 12 + ["b"] * len(pixels))


BAD = {
    "nothing in them": (lambda: flat(24), r"of 24 pictures 1 show anything"),
    "one picture": (lambda: part(planted().pictures, [0]), r"1 pictures: give 8 or more"),
    "all the same": (lambda: same(20), r"of 20 pictures 1 look different"),
    "all the same, saved again": (lambda: saved_again(20), r"of 20 pictures 1 look different"),
    "noise": (lambda: noise(16), r"all that is in these pictures looks alike"),
    "a class of blanks": (lambda: beside(flat(9).pixels[1:]), r"class 'b': 0 of its 8 pictures show anything"),
    "a class of one picture again": (lambda: beside(same(8).pixels), r"class 'b': its 8 pictures look the same"),
    "one class": (
        lambda: replace(planted().pictures, classes=["a"] * 48), r"all pictures are of one class, 'a': give another"
    ),
    "a class of one": (
        lambda: replace(planted().pictures, classes=["a"] + ["b"] * 47), r"class 'a' has one picture: give two or more"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FINDERS + OF_CLASSES)
@pytest.mark.parametrize("what", BAD)
def test_pictures_of_which_nothing_can_be_told(name: str, what: str) -> None:
    make, says = BAD[what]
    with pytest.raises(PolicyError, match=says):
        offers("finders")[name].find(search(name, make()))


@pytest.mark.parametrize("name", FINDERS + OF_CLASSES)
def test_more_concepts_than_there_is_to_see(name: str) -> None:
    """Nine pictures, each one crop: no more concepts than crops, and of each it is known where it is."""
    few = part(planted().pictures, range(9))
    asked = search(name, few, concepts=500, crop=1.0, **QUICK.get(name, {}))
    made = offers("finders")[name].find(asked).concepts
    assert len(made) <= (32 if name in ("pca", "random_directions", "sparse_cbm") else 9)
    assert all(bool(one.scores.isfinite().all()) and bool(one.maps.isfinite().all()) for one in made)
    with pytest.raises(ValueError, match="less than or equal to 4096"):
        offers("finders")[name].FindSettings(concepts=20_000)


@pytest.mark.parametrize("name", FINDERS + OF_CLASSES)
def test_activations_that_are_not_finite(name: str) -> None:
    class Overflowing:
        """An encoder in half precision, of a picture that it cannot hold."""

        def __getattr__(self, what: str) -> Any:
            return getattr(encoder(), what)

        def pictures(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.full((len(pixels), 128), float("nan"))

    asked = replace(search(name), encoder=Overflowing())
    with pytest.raises(PolicyError, match=r"says nothing finite of 000: load it in fp32"):
        offers("finders")[name].find(asked)


def test_a_layer_that_the_tower_does_not_have() -> None:
    with pytest.raises(RegistryError, match="has none 40 before its end"):
        found("craft", before=40)
