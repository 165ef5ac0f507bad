"""LoRA files in every layout of keys: the change of each layer is the one that was put in, or the file is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fuzzing import fuzz, one_line
from hypothesis import strategies as st

from conceptguard.errors import ConceptGuardError
from conceptguard.formats import read_terms

BLOCK = "unet.down_blocks.1.attentions.0.transformer_blocks.0"
LAYERS = {
    f"{BLOCK}.attn1.to_q": (8, 6), f"{BLOCK}.attn2.to_k": (8, 4), f"{BLOCK}.attn2.to_v": (8, 4),
    f"{BLOCK}.attn2.to_out.0": (6, 8), f"{BLOCK}.ff.net.0.proj": (16, 6), "unet.conv_in": (8, 4, 3, 3),
    "unet.down_blocks.1.attentions.0.proj_in": (6, 6, 1, 1), "unet.time_embedding.linear_1": (9, 5),
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (5, 5),
    "text_encoder.text_model.encoder.layers.1.mlp.fc1": (7, 5),
}  # fmt: skip


def kohya(layer: str) -> tuple[str, str, str]:
    component, name = layer.split(".", 1)
    stem = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[component] + name.replace(".", "_")
    return f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha"


def diffusers(layer: str) -> tuple[str, str, str]:
    return f"{layer}.lora_A.weight", f"{layer}.lora_B.weight", f"{layer}.alpha"


def older_diffusers(layer: str) -> tuple[str, str, str]:
    return f"{layer}.lora.down.weight", f"{layer}.lora.up.weight", f"{layer}.alpha"


def peft(layer: str) -> tuple[str, str, str]:
    name = layer.removeprefix("unet.")
    return f"base_model.model.{name}.lora_A.weight", f"base_model.model.{name}.lora_B.weight", f"{name}.alpha"


ADAPTERS = st.lists(
    st.tuples(st.sampled_from(list(LAYERS)), st.integers(1, 4), st.none() | st.sampled_from([0.5, 1.0, 3.0, 8.0])),
    min_size=1, max_size=5, unique_by=lambda one: one[0],
)  # fmt: skip
LAYOUTS = st.sampled_from([kohya, diffusers, older_diffusers, peft])
HARMS = st.sampled_from(["rank", "lonely", "stranger", "twice", "nan", "zero"])


def written(
    adapters: Any, layout: Any, seed: int, dtype: torch.dtype
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a file, and the change of each layer as a matrix."""
    random = torch.Generator().manual_seed(seed)
    tensors, changes = {}, {}
    for layer, rank, alpha in adapters:
        shape = LAYERS[layer]
        down = torch.randn(rank, *shape[1:], generator=random).to(dtype)
        up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=random).to(dtype)
        keys = layout(layer)
        tensors |= {keys[0]: down, keys[1]: up}
        if alpha is not None and layout is not peft:
            tensors[keys[2]] = torch.tensor(alpha)
        scale = alpha / rank if alpha is not None and layout is not peft else 1.0
        changes[layer] = scale * (up.flatten(1).double() @ down.flatten(1).double())
    return tensors, changes


@fuzz(500, 12_000, adapters=ADAPTERS, layout=LAYOUTS, seed=st.integers(0, 9), order=st.randoms(use_true_random=False),
      dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]), harm=HARMS)  # fmt: skip
def test_a_lora_is_what_was_put_in(
    adapters: Any, layout: Any, seed: int, order: Any, dtype: torch.dtype, harm: str
) -> None:
    if layout is peft:
        adapters = [one for one in adapters if one[0].startswith("unet.")] or [(next(iter(LAYERS)), 2, None)]
    tensors, changes = written(adapters, layout, seed, dtype)
    keys = list(tensors)
    order.shuffle(keys)
    found = read_terms({key: tensors[key] for key in keys}, {}, LAYERS)
    assert found.keys() == changes.keys()
    for layer, change in changes.items():
        own = found[layer]
        got = own.scale * (own.up.flatten(1).double() @ own.down.flatten(1).double())
        torch.testing.assert_close(got, change, rtol=1e-5, atol=1e-6, msg=layer)
    down, up, alpha = layout(adapters[0][0])
    bad = dict(tensors)
    if harm == "rank":
        bad[down] = torch.cat([bad[down], bad[down]])
    elif harm == "lonely":
        del bad[up]
    elif harm == "stranger":
        bad |= {key.replace("attn", "attx").replace("conv", "convx").replace("_0", "_9").replace(".0", ".9") + "x": one
                for key, one in tensors.items()}  # fmt: skip
    elif harm == "twice":
        other = older_diffusers if layout is not older_diffusers else diffusers
        bad |= dict(zip(other(adapters[0][0]), (tensors[down], tensors[up])))
    elif harm == "nan":
        bad[alpha if layout is not peft else "x.alpha"] = torch.tensor(float("nan"))
    else:
        bad = {key: torch.zeros_like(one) for key, one in bad.items()}
    with pytest.raises(ConceptGuardError) as caught:
        read_terms(bad, {}, LAYERS)
    one_line(caught.value)
