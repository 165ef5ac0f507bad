"""Files of LyCORIS' forms: the same change of a layer as ComfyUI itself makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from conceptguard.errors import ArtifactError
from conceptguard.formats import read_terms

KEY = "lora_unet_x"


def random(*shape: int) -> Tensor:
    return torch.randn(*shape) / 3


FORMS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "lora": ((8, 6), {"lora_down.weight": (2, 6), "lora_up.weight": (8, 2), "alpha": 3.0}),
    "lora, 1 x 1": ((8, 6, 1, 1), {"lora_down.weight": (2, 6), "lora_up.weight": (8, 2), "alpha": 3.0}),
    "lora, 3 x 3": ((8, 6, 3, 3), {"lora_down.weight": (2, 6, 3, 3), "lora_up.weight": (8, 2, 1, 1)}),
    "tucker": (
        (8, 6, 3, 3),
        {"lora_down.weight": (2, 6, 1, 1), "lora_mid.weight": (2, 2, 3, 3), "lora_up.weight": (8, 2, 1, 1),
         "alpha": 1.0},
    ),
    "loha": (
        (9, 10),
        {"hada_w1_a": (9, 2), "hada_w1_b": (2, 10), "hada_w2_a": (9, 2), "hada_w2_b": (2, 10), "alpha": 3.0},
    ),
    "loha, 3 x 3": (
        (8, 6, 3, 3),
        {"hada_w1_a": (8, 2), "hada_w1_b": (2, 54), "hada_w2_a": (8, 2), "hada_w2_b": (2, 54), "alpha": 3.0},
    ),
    "loha, tucker": (
        (8, 6, 3, 3),
        {"hada_w1_a": (2, 8), "hada_w1_b": (2, 6), "hada_w2_a": (2, 8), "hada_w2_b": (2, 6),
         "hada_t1": (2, 2, 3, 3), "hada_t2": (2, 2, 3, 3), "alpha": 3.0},
    ),
    "lokr": ((8, 6), {"lokr_w1": (2, 3), "lokr_w2": (4, 2), "alpha": 7.0}),
    "lokr, second in factors": ((16, 24), {"lokr_w1": (2, 2), "lokr_w2_a": (8, 1), "lokr_w2_b": (1, 12), "alpha": 0.5}),
    "lokr, both in factors": (
        (8, 6),
        {"lokr_w1_a": (2, 1), "lokr_w1_b": (1, 3), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 2), "alpha": 3.0},
    ),
    "lokr, 3 x 3": ((8, 6, 3, 3), {"lokr_w1": (2, 3), "lokr_w2": (4, 2, 3, 3)}),
    "oft": ((8, 6), {"oft_blocks": (2, 4, 4), "alpha": 0.0}),
    "oft, 3 x 3": ((8, 6, 3, 3), {"oft_blocks": (4, 2, 2), "alpha": 0.0}),
    "dora of inputs": (
        (8, 6),
        {"lora_down.weight": (2, 6), "lora_up.weight": (8, 2), "dora_scale": (1, 6), "alpha": 3.0},
    ),
    "dora of inputs, 3 x 3": (
        (8, 6, 3, 3),
        {"lora_down.weight": (2, 6, 3, 3), "lora_up.weight": (8, 2, 1, 1), "dora_scale": (1, 6, 1, 1)},
    ),
    "dora of a loha": (
        (9, 10),
        {"hada_w1_a": (9, 2), "hada_w1_b": (2, 10), "hada_w2_a": (9, 2), "hada_w2_b": (2, 10), "dora_scale": (1, 10)},
    ),
    "difference": ((8, 6), {"diff": (8, 6)}),
    "difference, 3 x 3": ((8, 6, 3, 3), {"diff": (8, 6, 3, 3)}),
}  # fmt: skip


def parts(form: str) -> tuple[Tensor, dict[str, Tensor]]:
    """(the layer's weight, the file's tensors)"""
    torch.manual_seed(0)
    shape, made = FORMS[form]
    tensors = {
        f"{KEY}.{name}": torch.tensor(one) if isinstance(one, float) else random(*one) for name, one in made.items()
    }
    return random(*shape), tensors


def theirs(weight: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """The change that ComfyUI makes, [out, in * kernel]."""
    import comfy.lora

    patches = comfy.lora.load_lora(dict(tensors), {KEY: "x.weight"})
    (patch,) = patches.values()
    changed = comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], weight.clone(), "x.weight")
    return (changed - weight).flatten(1)


def ours(weight: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    (term,) = read_terms(tensors, {}, {"unet.x": tuple(weight.shape)}, base_weights=lambda name: weight).values()
    assert term.down.shape[1:] == weight.shape[1:] and term.up.shape[:1] == weight.shape[:1]
    assert len(term.down) <= min(weight.flatten(1).shape)
    return term.scale * (term.up.flatten(1) @ term.down.flatten(1))


@pytest.mark.parametrize("form", FORMS)
def test_the_change_is_comfyui_s(comfy: None, form: str) -> None:
    weight, tensors = parts(form)
    want = theirs(weight, tensors)
    assert want.abs().max() > 1e-2
    torch.testing.assert_close(ours(weight, tensors), want, rtol=1e-4, atol=1e-5)


def test_low_ranks_stay_low() -> None:
    for form, rank in {"loha": 4, "lokr, second in factors": 2, "tucker": 2}.items():
        weight, tensors = parts(form)
        (term,) = read_terms(tensors, {}, {"unet.x": tuple(weight.shape)}).values()
        assert len(term.down) == rank, form


def test_dora_of_outputs_is_as_it_was_trained(comfy: None) -> None:
    """LyCORIS and peft bring the changed rows to their lengths. ComfyUI measures the rows before the change."""
    weight, tensors = parts("lora")
    tensors[f"{KEY}.dora_scale"] = random(8, 1).abs() + 1
    change = 1.5 * tensors[f"{KEY}.lora_up.weight"] @ tensors[f"{KEY}.lora_down.weight"]
    new = weight + ours(weight, tensors)
    torch.testing.assert_close(new.norm(dim=1, keepdim=True), tensors[f"{KEY}.dora_scale"])
    torch.testing.assert_close(new / new.norm(dim=1, keepdim=True), torch.nn.functional.normalize(weight + change))
    assert not torch.allclose(theirs(weight, tensors), new - weight, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "tensor", "says"),
    [
        ("oft_blocks", torch.ones(1, 2, 4, 4), "BOFT"),
        ("a1.weight", torch.ones(2, 6), "GLoRA"),
        ("set_weight", torch.ones(8, 6), "whole weights"),
        ("diff_b", torch.ones(8), "a changed bias"),
        ("w_norm", torch.ones(8), "a changed norm"),
        ("lora_up.weight", torch.ones(8, 2), "no `down`"),
        ("hada_w1_a", torch.ones(8, 2), "LoHa has no `hada_w1_b`"),
        ("lokr_w1", torch.ones(2, 3), "LoKr has no `lokr_w2_a`"),
        ("dora_scale", torch.ones(8, 1), "DoRA"),
    ],
)
def test_what_is_not_read_is_named(name: str, tensor: Tensor, says: str) -> None:
    with pytest.raises(ArtifactError, match=says):
        read_terms({f"{KEY}.{name}": tensor}, {}, {"unet.x": (8, 6)}, base_weights=lambda name: torch.ones(8, 6))


def test_a_constrained_rotation_is_refused() -> None:
    weight, tensors = parts("oft")
    tensors[f"{KEY}.alpha"] = torch.tensor(0.1)
    with pytest.raises(ArtifactError, match="constrained"):
        ours(weight, tensors)
