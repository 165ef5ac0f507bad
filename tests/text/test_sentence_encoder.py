"""Vectors of texts are those of sentence-transformers, whatever else is encoded beside them."""

from __future__ import annotations

import pytest
import torch

from conceptguard.text import sentence_encoder

TEXTS = ["river", "She was born in a town by the river.", ""]
BEGINS = [  # as sentence-transformers 6.2.0 encodes them, each beside the others
    [0.02387365512549877, 0.07271958142518997, -0.02369651012122631, 0.006041778717190027],
    [0.01869426853954792, 0.06747275590896606, -0.029793033376336098, 0.10083542764186859],
    [-0.11883837729692459, 0.04829883575439453, -0.002548112068325281, -0.011011098511517048],
]
PRODUCTS = [0.5050715208053589, 0.23120027780532837, 0.008079895749688148]


def test_they_are_those_of_the_model() -> None:
    found = sentence_encoder.encode(TEXTS)
    assert torch.allclose(found[:, :4], torch.tensor(BEGINS), atol=2e-6, rtol=0)
    products = found @ found.T
    assert products[[0, 0, 1], [1, 2, 2]].tolist() == pytest.approx(PRODUCTS, abs=2e-6)
    assert torch.allclose(products.diag(), torch.ones(3), atol=1e-6)


def test_company_changes_nothing_but_the_last_bits() -> None:
    company = [f"{'word ' * (i % 40)}{i}" for i in range(200)]  # several passes
    among = sentence_encoder.encode([*company[:100], *TEXTS, *company[100:]])[100:103]
    assert torch.allclose(among, sentence_encoder.encode(TEXTS), atol=1e-6, rtol=0)


def test_what_is_beyond_its_reach_is_not_read() -> None:
    long = "town " * 300
    one, other = sentence_encoder.encode([long, f"{long} and a river"])
    assert torch.allclose(one, other, atol=1e-6, rtol=0)
