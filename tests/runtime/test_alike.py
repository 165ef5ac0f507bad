"""Many files that are written alike, read and stacked at once: the same terms as one by one, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from random_artifacts import random_terms, write_terms
from tiny import tiny_sd

from conceptguard.errors import ArtifactError
from conceptguard.formats import read_artifact, read_terms, to_kohya
from conceptguard.hosts.diffusers.host import DiffusersHost
from conceptguard.registry import open_artifact, write_artifact
from conceptguard.runtime.alike import Alike
from conceptguard.runtime.banks import Banks
from conceptguard.runtime.gates import Gate
from conceptguard.runtime.lowrank import Factors, LayerIndex, Terms
from conceptguard.runtime.once import meanwhile

NAMES = ("attn1.", "attn2.", "proj_in", "proj_out")


@pytest.fixture(scope="module")
def tiny(tokenizer: Any) -> Any:
    return tiny_sd(tokenizer)


@pytest.fixture
def layers(tiny: Any) -> LayerIndex:
    return DiffusersHost(tiny).layers()


def both(folder: Path, layers: LayerIndex) -> tuple[Any, dict[str, Factors]]:
    """A file's terms as a policy reads them, and tensor by tensor."""
    artifact = open_artifact(folder)
    plain = {name: tensor.clone() for name, tensor in artifact.tensors().items()}
    return read_artifact(artifact, layers), read_terms(plain, artifact.metadata(), layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_stacked_banks_are_those_of_single_files(
    dtype: torch.dtype, tiny: Any, layers: LayerIndex, tmp_path: Path
) -> None:
    """Ranks 1 and 3 in turn, with an odd alpha, and one guard whose terms come from no file."""
    alike, single = [], []
    with meanwhile():
        for i in range(6):
            terms = random_terms(tiny, names=NAMES, rank=(1, 3)[i % 2], seed=i)
            tensors, metadata = to_kohya({name: one._replace(scale=0.7) for name, one in terms.items()})
            fields = {"method": "spm", "concept": {"name": "beer", "prompts": ["beer"]}, "base": {"family": "test"}}
            write_artifact(
                tmp_path / str(i), fields, {key: one.to(dtype) for key, one in tensors.items()}, metadata=metadata
            )
            found, plain = both(tmp_path / str(i), layers)
            assert isinstance(found, Alike)
            assert found.keys() == plain.keys()
            for name in (next(iter(plain)), list(plain)[-1]):
                assert found[name].scale == plain[name].scale
                assert torch.equal(found[name].down, plain[name].down) and torch.equal(found[name].up, plain[name].up)
            alike.append(found)
            single.append(plain)
    assert alike[0].layout is alike[2].layout and alike[0].layout is not alike[1].layout
    extra = random_terms(tiny, names=("to_q",), seed=9)
    made = [Banks(layers, [Terms(None, one, Gate()) for one in [*some, extra]], object()) for some in (alike, single)]
    assert made[0].banks.keys() == made[1].banks.keys()
    for name, bank in made[0].banks.items():
        other = made[1].banks[name]
        assert bank.spans.keys() == other.spans.keys()
        for guard, span in bank.spans.items():
            assert torch.equal(bank.down[slice(*span)], other.down[slice(*other.spans[guard])])
            assert torch.equal(bank.up[slice(*span)], other.up[slice(*other.spans[guard])])
    for banks in made:
        banks.detach()


def test_a_file_that_says_more_is_read_tensor_by_tensor(tiny: Any, layers: LayerIndex, tmp_path: Path) -> None:
    """A layer without an alpha, beside a file of the same shapes that has them all."""
    terms = random_terms(tiny, names=NAMES)
    tensors, metadata = to_kohya(terms)
    base = {"family": "test"}
    concept = {"name": "beer", "prompts": ["beer"]}
    fields = {"method": "spm", "concept": concept, "base": base}
    lacking = {key: tensor for i, (key, tensor) in enumerate(tensors.items()) if not (key.endswith("alpha") and i < 3)}
    assert len(lacking) == len(tensors) - 1
    with meanwhile():
        write_artifact(tmp_path / "whole", fields, tensors, metadata=metadata)
        write_artifact(tmp_path / "lacking", fields, lacking, metadata=metadata)
        assert isinstance(both(tmp_path / "whole", layers)[0], Alike)
        found, plain = both(tmp_path / "lacking", layers)
        assert not isinstance(found, Alike)
        assert {name: one.scale for name, one in found.items()} == {name: one.scale for name, one in plain.items()}


def test_a_file_that_changes_nothing_is_refused_after_one_that_does(
    tiny: Any, layers: LayerIndex, tmp_path: Path
) -> None:
    terms = random_terms(tiny, names=NAMES)
    nothing = {name: one._replace(up=torch.zeros_like(one.up)) for name, one in terms.items()}
    with meanwhile():
        read_artifact(open_artifact(write_terms(tmp_path / "a", tiny, terms)), layers)
        with pytest.raises(ArtifactError, match="changes nothing"):
            read_artifact(open_artifact(write_terms(tmp_path / "b", tiny, nothing)), layers)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_membranes_of_one_layout_are_held_once(alpha: float, tiny: Any, layers: LayerIndex, tmp_path: Path) -> None:
    """A bank's rows are the files' own where nothing has to be worked out of them, and of their worth where it has."""
    found = []
    with meanwhile():
        for i in range(3):
            terms = {name: one._replace(scale=alpha) for name, one in random_terms(tiny, names=NAMES, seed=i).items()}
            found.append(both(write_terms(tmp_path / str(i), tiny, terms), layers)[0])
    banks = Banks(layers, [Terms(None, one, Gate()) for one in found], object())
    for name, bank in banks.banks.items():
        for guard, (begin, end) in bank.spans.items():
            factors = found[guard][name]
            assert factors.scale == alpha
            assert torch.equal(bank.down[begin:end], factors.down)
            assert torch.equal(bank.up[begin:end], factors.up.reshape(len(factors.up), -1).T * alpha)
            assert (bank.down[begin:end].data_ptr() == factors.down.data_ptr()) == (len(factors.down) == 1)
            if len(factors.down) == 1:
                assert (bank.up[begin:end].data_ptr() == factors.up.data_ptr()) == (alpha == 1)
    banks.detach()
