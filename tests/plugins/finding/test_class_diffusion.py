"""What a learnt word or a LoRA lost: nothing where nothing was learnt, most where it was learnt over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from conceptguard.concept import Concept
from conceptguard.errors import ConceptGuardError, PolicyError
from conceptguard.finder import Found, Search
from conceptguard.making.semantics import semantic_preservation
from conceptguard.plugins import host_for, offers
from conceptguard.testing import embedded_model

KEPT = Concept(name="kept", prompts=["dog", "car"])


def find(concept: Concept | None = KEPT, **settings: Any) -> Found:
    finder = offers("finders")["class_diffusion"]
    chosen = finder.FindSettings(pictures=1, **settings)
    return finder.find(Search(host_for(embedded_model()), concept, chosen, 0, "it", False))


def test_the_loss_is_the_papers() -> None:
    one, other = torch.randn(3, 8), torch.randn(3, 8)
    assert float(semantic_preservation(one, 2 * one)) == pytest.approx(0, abs=1e-6)
    assert float(semantic_preservation(one, -one)) == pytest.approx(2, abs=1e-6)
    by_hand = 1 - ((one * other).sum(1) / one.norm(dim=1) / other.norm(dim=1)).mean()
    assert float(semantic_preservation(one, other)) == pytest.approx(float(by_hand), abs=1e-6)


def test_of_a_word(tmp_path: Path) -> None:
    """The vector of an article before the class loses nothing, that of another class more than a word by chance."""
    encoder = host_for(embedded_model()).encoders()[0]
    for word, least, most in (("a", -1.0, 0.0), ("skull", 1.0, 1000.0)):
        vector = encoder.vocabulary[encoder.ids([word])[0][0]].float()
        save_file({"<it>": vector}, tmp_path / "it.safetensors")
        rows = find(token=str(tmp_path / "it.safetensors")).rows
        assert {row["class"] for row in rows} == {"dog", "car"}
        for row in rows:
            assert row["by_chance"] > 0 and least < row["lost"] / row["by_chance"] <= most + 0.01, (word, rows)


def test_of_a_lora(tmp_path: Path) -> None:
    """One that does next to nothing lost nothing; the larger one by chance is, the more is lost."""
    random, lost = torch.Generator().manual_seed(0), []
    layers = host_for(embedded_model()).layers()
    for size in (1e-6, 0.05, 0.5):
        tensors = {}
        for name, (out, into) in ((n, s) for n, s in layers.shapes().items() if "attn2.to_k" in n):
            tensors[f"{name}.lora_A.weight"] = torch.randn(2, into, generator=random) / into**0.5
            tensors[f"{name}.lora_B.weight"] = size * torch.randn(out, 2, generator=random)
        save_file(tensors, tmp_path / "it.safetensors")
        lost.append(find(lora=str(tmp_path / "it.safetensors")).figures["lost"])
    assert lost[0] < 1e-3 < lost[1] < lost[2], lost


def test_what_is_asked_wrongly(tmp_path: Path) -> None:
    (tmp_path / "it.bin").write_bytes(b"not it")
    save_file({"<it>": torch.zeros(3)}, tmp_path / "small.safetensors")
    for told, settings in (
        ("name them", {"concept": None, "token": "x"}), ("measures one file", {}), ("no such file", {"token": "x"}),
        ("as this model reads", {"token": str(tmp_path / "small.safetensors")}),
    ):  # fmt: skip
        with pytest.raises(PolicyError, match=told):
            find(**settings)
    with pytest.raises(ConceptGuardError):
        find(lora=str(tmp_path / "it.bin"))
