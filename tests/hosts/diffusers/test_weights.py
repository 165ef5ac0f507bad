"""Denoisers whose weights are elsewhere or in another type between two calls: group offload, layerwise casting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_artifacts import RandomTerms
from test_families import OPENS, UNRELATED, policy
from tiny import generate, tiny_sd

import conceptguard
from conceptguard.errors import GuardError
from conceptguard.plugins import host_for
from conceptguard.testing.kit_guards import offered

HOME = torch.device("cpu")
TWO = "a cigarette and a dog"
PLACES: dict[str, Callable[[Any, Path], None]] = {
    "block by block": lambda unet, folder: unet.enable_group_offload(
        onload_device=HOME, offload_device=HOME, offload_type="block_level", num_blocks_per_group=1
    ),
    "on disk": lambda unet, folder: unet.enable_group_offload(
        onload_device=HOME, offload_device=HOME, offload_type="leaf_level", offload_to_disk_path=str(folder)
    ),
    "float8": lambda unet, folder: unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32),
}


def test_weights_that_lie_in_files_are_not_looked_at_between_calls(tokenizer: Any, tmp_path: Path) -> None:
    """What memory holds in their place is by chance another thing than before."""
    pipe = tiny_sd(tokenizer)
    PLACES["on disk"](pipe.unet, tmp_path)
    with offered(RandomTerms), conceptguard.attach(pipe, policy("random-terms")):
        got = generate(pipe, [OPENS])
        for weight in pipe.unet.parameters():
            weight.data = torch.full_like(weight.data, 7.0)
        assert torch.equal(generate(pipe, [OPENS]), got)


@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_what_lies_in_files_is_read_there(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    """An edit is made of a model's own weights, and of nothing that memory holds in their place."""
    home, pipe = tiny_sd(tokenizer), tiny_sd(tokenizer)
    blocks = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    pipe.unet.enable_group_offload(
        onload_device=HOME, offload_device=HOME, offload_type=kind, offload_to_disk_path=str(tmp_path), **blocks
    )
    wanted, found = (host_for(one).weights() for one in (home, pipe))
    names = [name for name in host_for(home).layers() if name.startswith("unet.")]
    assert len(names) > 50
    for name in names:
        assert torch.equal(found(name), wanted(name)), name


@pytest.mark.parametrize("method", ["random-terms", "negative_guidance", "astar"])
@pytest.mark.parametrize("place", PLACES)
def test_guards_act(place: str, method: str, tokenizer: Any, tmp_path: Path) -> None:
    """As at home; in eight bits as in a model that has lost as much."""
    pipe, home, guard = (
        tiny_sd(tokenizer),
        tiny_sd(tokenizer),
        policy(method, **({"scale": 8.0} if method == "astar" else {})),
    )
    PLACES[place](pipe.unet, tmp_path)
    if place == "float8":
        for name, weight in pipe.unet.named_parameters():
            home.unet.get_parameter(name).data = weight.float()
    prompts = [UNRELATED, TWO if method == "astar" else OPENS]
    bare = generate(pipe, prompts)
    with offered(RandomTerms):
        with conceptguard.attach(pipe, guard):
            got = generate(pipe, prompts)
        with conceptguard.attach(home, guard):
            want = generate(home, prompts)
    assert torch.equal(got[0], bare[0]) and not torch.allclose(got[1], bare[1], atol=1e-3)
    torch.testing.assert_close(got, want, atol=1e-2 if place == "float8" and method == "random-terms" else 1e-3, rtol=0)
    assert torch.equal(generate(pipe, prompts), bare)


def test_attention_without_a_gradient_is_named(tokenizer: Any) -> None:
    """As layers have it whose activations are quantised."""
    pipe = tiny_sd(tokenizer)
    for module in pipe.unet.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.register_forward_hook(lambda module, args, output: output.detach())
    with conceptguard.attach(pipe, policy("astar", scale=8.0)), pytest.raises(GuardError, match="has no gradient"):
        generate(pipe, [TWO])
