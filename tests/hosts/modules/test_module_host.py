"""Plain torch modules under a policy: what is folded into their weights acts, and is gone to the last bit."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import conceptguard
from conceptguard import Factors, Gate, GuardError, LayerIndex, Method, SessionError, Terms, hookimpl
from conceptguard.errors import BaseMismatch
from conceptguard.hosts.modules.nets import NETS
from conceptguard.testing.kit_guards import offered


class Shift(Method):
    """Pictures: adds to a bias, a norm and, at rank one, to two layers."""

    name = "shift"
    needs = "nothing"
    also: ClassVar[dict[str, Tensor]] = {}

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        low = {
            "model.head": Factors(torch.ones(1, 112) / 9, torch.ones(10, 1), 0.5),
            "model.stem": Factors(torch.ones(1, 3, 5, 5) / 9, torch.linspace(-1, 1, 24)[:, None, None, None]),
        }
        whole = {"model.head.bias": torch.linspace(0, 1, 10), "model.norm.running_mean": torch.full((24,), 0.1)}
        return Terms(self, low, Gate(strength=self.guard.strength), whole={**whole, **self.also})


CONCEPT = {"name": "a", "prompts": ["a"]}
POLICY = {"name": "shifted", "guards": [{"method": "shift"}]}


@pytest.fixture(autouse=True)
def shift() -> Iterator[None]:
    with offered(Shift):
        yield


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return NETS["resnet"](10).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def bits(module: nn.Module) -> list[tuple[str, int, Tensor]]:
    return [(name, tensor.data_ptr(), tensor.clone()) for name, tensor in module.state_dict().items()]


def same(one: list[tuple[str, int, Tensor]], other: list[tuple[str, int, Tensor]]) -> bool:
    return all(a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in zip(one, other, strict=True))


def test_it_acts_as_the_same_sum_of_weights_and_leaves_no_trace(net: nn.Module, x: Tensor) -> None:
    bare, before, hooks = net(x), bits(net), dict(net._forward_hooks)
    by_hand = copy.deepcopy(net)
    with torch.no_grad():
        by_hand.head.weight += 0.5 * torch.ones(10, 1) @ torch.ones(1, 112) / 9
        by_hand.stem.weight += torch.linspace(-1, 1, 24)[:, None, None, None] * torch.ones(1, 3, 5, 5) / 9
        by_hand.head.bias += torch.linspace(0, 1, 10)
        by_hand.norm.running_mean += 0.1
    with conceptguard.attach(net, POLICY) as guard:
        assert torch.allclose(net(x), by_hand(x), atol=1e-6) and not torch.allclose(net(x), bare, atol=0.1)
        told = guard.receipt.to_dict()
        assert told["steps"] == 1 and told["acts"][0]["layers"] == 4 and told["acts"][0]["gates"] == [1.0]
        assert told["acts"][0]["steps"] == [0] and told["rows"][0]["text"] == "4 inputs" and told["seconds"] > 0
        own, other = (one.norm(one.stem(x)) for one in (net, by_hand))
        assert torch.allclose(own, other, atol=1e-5), "a part that is called by itself"
    assert same(before, bits(net)) and torch.equal(net(x), bare)
    assert dict(net._forward_hooks) == hooks and not net._forward_pre_hooks and "forward" not in vars(net)
    seen = weakref.ref(guard)
    del guard
    gc.collect()
    assert seen() is None, "the module holds the session"


def test_strength_and_composition(net: nn.Module, x: Tensor) -> None:
    bare = net(x)
    with conceptguard.attach(net, {"name": "p", "guards": [{"method": "shift", "strength": 0.0}]}) as guard:
        assert torch.equal(net(x), bare) and not guard.receipt.opened
    half = {"method": "shift", "strength": 0.5}
    with conceptguard.attach(net, {"name": "p", "guards": [half, half]}):
        twice = net(x)
    with conceptguard.attach(net, POLICY):
        assert torch.allclose(net(x), twice, atol=1e-5)


def test_moved_and_cast_while_attached(net: nn.Module, x: Tensor) -> None:
    bare, before = net(x), bits(net)
    with conceptguard.attach(net, POLICY):
        single = net(x)
        net.double()
        assert torch.allclose(net(x.double()).float(), single, atol=1e-4)
        net.float()
        assert torch.equal(net(x), single)
    assert torch.equal(net(x), bare)
    assert all(torch.equal(a[2], b[2]) for a, b in zip(before, bits(net), strict=True))
    half = net.bfloat16()
    with conceptguard.attach(half, POLICY):
        assert not torch.equal(half(x.bfloat16()), bare.bfloat16())


@pytest.mark.parametrize("how", ["load", "train", "write", "replace"])
def test_weights_that_somebody_changes_are_no_output(net: nn.Module, x: Tensor, how: str) -> None:
    before, bare = bits(net), net(x)
    session = conceptguard.attach(net, POLICY)
    if how == "load":
        net.load_state_dict(NETS["resnet"](10).state_dict())
    elif how == "train":
        with torch.no_grad():
            net.head.bias -= 1
    elif how == "write":
        net.head.bias.data.mul_(2)  # past its version counter
    else:
        net.head.bias = nn.Parameter(torch.zeros(10))
    with pytest.raises(GuardError, match="changed while a policy is attached"):
        net(x)
    with pytest.raises(SessionError, match="again what it was"):
        session.detach()
    if how == "write":
        assert same(before, bits(net)) and torch.equal(net(x), bare)


def test_what_cannot_be_guarded_is_told_and_left_alone(net: nn.Module, x: Tensor) -> None:
    before = bits(net)
    net.train()
    with pytest.raises(SessionError, match=r"training mode.*eval"):
        conceptguard.attach(net, POLICY)
    net.eval()
    Shift.also = {"model.nowhere": torch.ones(1)}
    try:
        with pytest.raises(BaseMismatch, match=r"no tensor model\.nowhere"):
            conceptguard.attach(net, POLICY)
        Shift.also = {"model.head.bias": torch.ones(9)}
        with pytest.raises(BaseMismatch, match="a change of it"):
            conceptguard.attach(net, POLICY)
    finally:
        Shift.also = {}
    with pytest.raises(SessionError, match=r"text encoder|acts on module"):
        conceptguard.attach(net, {"name": "p", "guards": [{"method": "sld", "concept": CONCEPT}]})
    assert same(before, bits(net)) and not net._forward_pre_hooks
    with conceptguard.attach(net, POLICY) as guard:
        with pytest.raises(SessionError, match="one policy at a time"), guard.using(POLICY):
            pass
        with pytest.raises(SessionError, match="already guarded"):
            conceptguard.attach(net, POLICY)
        net.train()
        with pytest.raises(GuardError, match="training mode"):
            net(x)
        net.eval()
        with pytest.raises(GuardError, match="copy of a guarded module"):
            copy.deepcopy(net)(x)
    assert torch.equal(net(x), net(x))


def test_an_error_in_a_call_leaves_nothing(net: nn.Module, x: Tensor) -> None:
    before = bits(net)
    with pytest.raises(RuntimeError), conceptguard.attach(net, POLICY) as guard:
        net(x[:, :1])
    assert same(before, bits(net)) and guard.receipt.steps == 0 and not guard.receipt.opened


def test_compiled(net: nn.Module, x: Tensor) -> None:
    compiled: Any = torch.compile(net, backend="eager")
    bare = compiled(x)
    with conceptguard.attach(net, POLICY):
        wanted = net(x)
    with conceptguard.attach(compiled, POLICY) as guard:
        assert torch.equal(compiled(x), wanted) and guard.receipt.opened
    assert torch.equal(compiled(x), bare)


def test_pipelines_take_no_whole_tensors(tiny: Any) -> None:
    with pytest.raises(BaseMismatch, match="for plain modules"):
        conceptguard.attach(tiny, POLICY)


def test_layers_and_fingerprint_tell_architectures_apart(net: nn.Module) -> None:
    hosts = [conceptguard.host_for(one) for one in (net, NETS["resnet"](10), NETS["resnet"](11), NETS["vit"](10))]
    prints = [host.fingerprint() for host in hosts]
    assert prints[0] == prints[1] and len({*prints}) == 3
    assert "model.blocks.0.conv1" in hosts[0].layers()
