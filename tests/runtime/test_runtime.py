"""The low-rank runtime against sums written out in full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from random_artifacts import random_factors
from torch import Tensor, nn

from conceptguard.errors import BaseMismatch, GuardError
from conceptguard.runtime.bank import running
from conceptguard.runtime.banks import Banks
from conceptguard.runtime.gates import Gate
from conceptguard.runtime.lowrank import Factors, LayerIndex, Terms
from conceptguard.runtime.once import in_place

LAYERS = {
    "linear": lambda: nn.Linear(12, 20),
    "linear without bias": lambda: nn.Linear(12, 20, bias=False),
    "conv": lambda: nn.Conv2d(12, 20, 3, stride=2, padding=1),
    "conv dilated": lambda: nn.Conv2d(12, 20, 3, padding=2, dilation=2),
    "conv 1x1": lambda: nn.Conv2d(12, 20, 1),
}
RANKS = (1, 4, 3)


class Holder(nn.Module):
    """One layer under the name that the runtime knows it by."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@pytest.fixture(params=LAYERS)
def holder(request: pytest.FixtureRequest) -> Iterator[Holder]:
    torch.manual_seed(0)
    model = Holder(LAYERS[request.param]()).eval()
    yield model
    assert "forward" not in vars(model.layer)


def build(model: nn.Module, ranks: Sequence[int] = RANKS, coupled: Sequence[bool] | None = None) -> Banks:
    """One guard per rank, each with a random term beside the layer."""
    index = LayerIndex({"unet": model})
    generator = torch.Generator().manual_seed(1)
    shape = index.shapes()["unet.layer"]
    terms = [
        Terms(None, {"unet.layer": random_factors(shape, rank, 1.0, generator)}, Gate(), bool(coupled and coupled[i]))  # type: ignore[arg-type]
        for i, rank in enumerate(ranks)
    ]
    return Banks(index, terms, object())


def delta(factors: Factors) -> Tensor:
    """scale · up · down as a weight of the layer's shape."""
    down, up = factors.down.double(), factors.up.double()
    return factors.scale * (up.flatten(1) @ down.flatten(1)).view(up.shape[0], *down.shape[1:])


def dense(model: Holder, weights: Tensor, x: Tensor) -> Tensor:
    """The layer with an explicit weight, in fp64."""
    layer = model.layer
    bias = None if layer.bias is None else layer.bias.double()
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x.double(), weights, bias, layer.stride, layer.padding, layer.dilation)
    return F.linear(x.double(), weights, bias)


def expected(model: Holder, banks: Banks, gates: Tensor, x: Tensor) -> Tensor:
    """Row by row: (W + Σ gate · scale · up · down) x."""
    rows = []
    for row, gate in zip(x, gates):
        weight = model.layer.weight.double()
        for g, terms in zip(gate, banks.terms):
            weight = weight + g.double() * delta(terms.factors["unet.layer"])
        rows.append(dense(model, weight, row[None]))
    return torch.cat(rows)


def inputs(model: Holder, rows: int) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(rows, 12, 9, 7) if isinstance(model.layer, nn.Conv2d) else torch.randn(rows, 5, 12)


GATES = {
    "one row": [[0.0, 0.5, 0.0]],
    "all rows alike": [[0.3, 0.0, 1.0], [0.3, 0.0, 1.0]],
    "each row its own": [[1.0, 0.0, 0.0], [0.0, 0.7, 0.2], [0.1, 0.2, 0.3]],
    "rows apart, closed between": [[0.4, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.9, 0.0], [0.0, 0.0, 0.0]],
    "the last rows only": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]],
}


@pytest.mark.parametrize("gates", GATES.values(), ids=GATES)
def test_equals_the_dense_sum(holder: Holder, gates: list[list[float]]) -> None:
    gate = torch.tensor(gates)
    x = inputs(holder, len(gate))
    bare = holder(x)
    banks = build(holder)
    banks.set("unet", gate)
    got = holder(x)
    torch.testing.assert_close(got.double(), expected(holder, banks, gate, x), rtol=1e-5, atol=1e-5)
    for row, closed in enumerate(~gate.any(dim=1)):
        assert torch.equal(got[row], bare[row]) == bool(closed)
    banks.set("unet", None)
    assert torch.equal(holder(x), bare)
    banks.detach()
    assert torch.equal(holder(x), bare)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_half_precision(holder: Holder, dtype: torch.dtype, tolerance: float) -> None:
    holder.to(dtype)
    gate = torch.tensor([[0.0, 0.5, 0.0], [1.0, 0.0, 0.5]])
    x = inputs(holder, 2).to(dtype)
    banks = build(holder)
    banks.set("unet", gate)
    got = holder(x)
    assert got.dtype == dtype
    want = expected(holder, banks, gate, x)
    assert float((got.double() - want).norm() / want.norm()) < tolerance
    banks.detach()


def test_any_number_of_dimensions() -> None:
    torch.manual_seed(0)
    model = Holder(nn.Linear(12, 20))
    banks = build(model)
    gate = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]])
    banks.set("unet", gate)
    for x in (torch.randn(2, 12), torch.randn(2, 3, 12), torch.randn(2, 3, 4, 12)):
        torch.testing.assert_close(model(x).double(), expected(model, banks, gate, x), rtol=1e-5, atol=1e-5)
    banks.detach()


def test_only_open_rows_and_ranks_are_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Holder(nn.Linear(12, 20))
    banks = build(model, ranks=(1,) * 100)
    seen: list[tuple[int, int]] = []
    real = F.linear

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if weight is not model.layer.weight:
            seen.append((x.shape[0], weight.shape[0]))
        return real(x, weight, bias)

    gates = torch.zeros(8, 100)
    gates[2, 7] = gates[3, 90] = 0.5
    banks.set("unet", gates)
    monkeypatch.setattr(F, "linear", linear)
    model(torch.randn(8, 5, 12))
    assert seen == [(2 * 5, 2)]  # two rows of eight with their five positions, two ranks of a hundred
    banks.set("unet", torch.zeros(8, 100))
    model(torch.randn(8, 5, 12))
    assert len(seen) == 1  # nothing at all for closed gates
    banks.detach()


@pytest.mark.parametrize("others", [0, 1])
def test_official_mode_sums_the_factors_first(others: int) -> None:
    torch.manual_seed(0)
    model = Holder(nn.Linear(12, 20))
    banks = build(model, ranks=(1, 1, 1), coupled=(True, True, not others))
    gate = torch.tensor([[0.5, 0.25, 0.0], [0.0, 0.8, 0.5], [0.0, 0.0, 0.0]])
    x = torch.randn(3, 5, 12)
    bare = model(x)
    banks.set("unet", gate)
    got = model(x)
    for row in range(3):
        mixed = [i for i, terms in enumerate(banks.terms) if terms.coupled]
        parts = [banks.terms[i].factors["unet.layer"] for i in range(3)]
        up = sum(gate[row, i] * parts[i].up * parts[i].scale for i in mixed)
        down = sum(gate[row, i] * parts[i].down for i in mixed)
        weight = model.layer.weight + up @ down
        for i in set(range(3)) - set(mixed):
            weight = weight + gate[row, i] * delta(parts[i]).float()
        torch.testing.assert_close(got[row], F.linear(x[row], weight, model.layer.bias), rtol=1e-5, atol=1e-5)
    assert torch.equal(got[2], bare[2])
    banks.detach()


def test_a_batch_of_another_size_is_an_error_not_a_guess() -> None:
    model = Holder(nn.Linear(12, 20))
    banks = build(model)
    banks.set("unet", torch.ones(2, 3))
    with pytest.raises(GuardError, match=r"unet\.layer got 1 rows where the prompts have 2"):
        model(torch.randn(1, 5, 12))
    banks.detach()


def test_an_open_layer_that_did_not_run_is_an_error() -> None:
    model = Holder(nn.Linear(12, 20))
    banks = build(model)
    banks.set("unet", torch.ones(2, 3))
    banks.start("unet")
    with pytest.raises(GuardError, match=r"unet\.layer did not run"):
        banks.verify("unet")
    model(torch.randn(2, 5, 12))
    banks.verify("unet")
    banks.detach()


def test_terms_of_another_shape_or_layer_are_refused_and_leave_no_hook() -> None:
    model = Holder(nn.Linear(12, 20))
    index = LayerIndex({"unet": model})
    good = Factors(torch.zeros(1, 12), torch.zeros(20, 1))
    for name, factors in {
        "unet.layer": Factors(torch.zeros(1, 13), torch.zeros(20, 1)),
        "unet.other": good,
    }.items():
        with pytest.raises(BaseMismatch, match=name):
            Banks(index, [Terms(None, {"unet.layer": good, name: factors}, Gate())], object())  # type: ignore[arg-type]
    assert "forward" not in vars(model.layer)
    with pytest.raises(BaseMismatch, match="grouped"):
        grouped = LayerIndex({"unet": Holder(nn.Conv2d(4, 4, 3, groups=2))})
        Banks(
            grouped,
            [Terms(None, {"unet.layer": Factors(torch.zeros(1, 2, 3, 3), torch.zeros(4, 1, 1, 1))}, Gate())],
            object(),
        )  # type: ignore[arg-type]


def test_memory_is_the_factors_and_no_more() -> None:
    model = Holder(nn.Linear(12, 20))
    banks = build(model, ranks=(1,) * 50)
    assert banks.nbytes == 50 * (12 + 20) * 4
    banks.detach()


class Two(nn.Module):
    """A model of two guarded layers, to be compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.conv = nn.Linear(12, 12), nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.layer(x))
        return self.conv(h.permute(0, 2, 1).reshape(len(x), 12, 2, 2))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_gives_the_eager_result_and_gates_do_not_recompile(backend: str) -> None:
    from torch._dynamo.utils import counters

    torch.manual_seed(0)
    model = Two().eval()
    generator = torch.Generator().manual_seed(1)
    index = LayerIndex({"unet": model})
    factors = {name: random_factors(shape, 2, 1.0, generator) for name, shape in index.shapes().items()}
    banks = Banks(index, [Terms(None, factors, Gate())], object())  # type: ignore[arg-type]
    banks.traced = True
    torch._dynamo.reset()
    compiled: Any = torch.compile(model, backend=backend, fullgraph=True)
    x = torch.randn(2, 4, 12)
    with torch.no_grad():
        compiled(x)
        banks.set("unet", torch.ones(2, 1))
        compiled(x)
        counters.clear()
        for gates in ([[0.0], [0.0]], [[0.0], [0.5]], [[1.0], [0.5]], [[0.0], [0.0]]):
            banks.set("unet", torch.tensor(gates))
            got, want = compiled(x), model(x)
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
            if not torch.tensor(gates).any():
                banks.set("unet", None)
                bare = model(x)
        assert counters["frames"]["total"] == 0
    banks.detach()
    assert torch.equal(model(x), bare)
    torch._dynamo.reset()


def test_a_graph_from_before_attaching_is_made_anew() -> None:
    model = Two().eval()
    torch._dynamo.reset()
    compiled: Any = torch.compile(model, backend="eager")
    x = torch.randn(2, 4, 12)
    with torch.no_grad():
        bare = compiled(x)
        index = LayerIndex({"unet": model})
        factors = {name: random_factors(shape, 2, 1.0, torch.Generator()) for name, shape in index.shapes().items()}
        banks = Banks(index, [Terms(None, factors, Gate())], object())  # type: ignore[arg-type]
        banks.set("unet", torch.ones(2, 1))
        banks.start("unet")
        guarded = compiled(x)
        banks.verify("unet")
        torch.testing.assert_close(guarded, model(x))
        assert not torch.allclose(guarded, bare)
        banks.detach()
        assert torch.equal(compiled(x), bare)
    torch._dynamo.reset()


def test_two_stand_ins_leave_in_any_order() -> None:
    """Sessions on one layer join and part as they like, and somebody's own stand-in below them stays."""
    layer = nn.Linear(12, 20)
    own = layer.forward
    layer.forward = lambda x: own(x) * 2  # type: ignore[method-assign]
    below, model, x = layer.forward, Holder(layer), torch.randn(2, 12)
    with torch.no_grad():
        bare = model(x)
        for first, second in ((0, 1), (1, 0)):
            both = [build(model, ranks=(1,)), build(model, ranks=(2,))]
            for banks in both:
                banks.set("unet", torch.ones(2, 1))
            summed = model(x)
            both[first].detach()
            alone = model(x)
            assert not torch.allclose(alone, bare) and not torch.allclose(alone, summed)
            both[second].detach()
            assert layer.forward is below and torch.equal(model(x), bare)


@pytest.mark.parametrize("rows", [[1.0, 1.0], [1.0, 0.5], [0.0, 1.0]])
def test_gradients_are_those_of_the_weights_written_out(holder: Holder, rows: list[float]) -> None:
    """Towards the input and, where they know any, towards gates; whether a row is shut or all are alike."""
    banks = build(holder)
    x = torch.randn(2, *((12, 9, 9) if isinstance(holder.layer, nn.Conv2d) else (7, 12)), requires_grad=True)
    gates = torch.tensor(rows)[:, None].expand(-1, 3).clone().requires_grad_()
    holder.requires_grad_(False)

    def slopes(y: Tensor, towards: list[Tensor]) -> list[Tensor]:
        return [one.double() for one in torch.autograd.grad(y.double().square().sum(), towards)]

    try:
        wanted = slopes(expected(holder, banks, gates.double(), x), [x, gates])
        for towards in ([x], [x, gates]):
            banks.set("unet", gates if len(towards) == 2 else gates.detach())
            for found, one in zip(slopes(holder(x), towards), wanted):
                opened = found.ne(0)  # a gate that is shut has no layer to pass a gradient through
                assert torch.allclose(found[opened], one[opened], rtol=1e-3, atol=1e-3) and opened.any()
    finally:
        banks.detach()


def test_what_a_search_opens_again_is_what_it_opened(holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same gates are not gathered anew; other ones are, and the same beside a weight of another scale."""
    first, second = torch.tensor([[0.3, 0.0, 1.0]] * 2), torch.tensor([[0.3, 0.0, 1.0], [0.0, 0.5, 0.0]])
    banks, x, gathered = build(holder), inputs(holder, 2), []
    (bank,) = banks.banks.values()
    gather = bank.set
    monkeypatch.setattr(bank, "set", lambda *given: gathered.append(1) or gather(*given))

    def drawn(gates: Tensor) -> Tensor:
        banks.set("unet", gates)
        found = holder(x)
        banks.set("unet", None)
        return found

    with in_place():
        found = [drawn(gates.clone()) for gates in (first, first, second, second, first)]
        assert len(gathered) == 3 and torch.equal(found[0], found[1]) and torch.equal(found[2], found[3])
        for made, gates in zip(found[1:4:2], (first, second)):
            torch.testing.assert_close(made.double(), expected(holder, banks, gates, x), rtol=1e-5, atol=1e-5)
        bank.scale = 2.0
        bare = holder(x)
        torch.testing.assert_close(drawn(first) - bare, 2 * (found[0] - bare), rtol=1e-4, atol=1e-5)
    assert len(gathered) == 4 and drawn(first) is not None and drawn(first) is not None and len(gathered) == 6
    banks.detach()


def test_a_search_has_terms_in_a_copy_of_the_weight(holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it opens the same again and asks for a gradient, which is then that of the sum; and nowhere else."""
    gates, own = torch.tensor([[0.3, 0.0, 1.0]] * 2), holder.layer.weight.requires_grad_(False)
    banks, kept, added = build(holder), own.clone(), []
    (bank,) = banks.banks.values()
    add = bank.add
    monkeypatch.setattr(bank, "add", lambda *given: added.append(1) or add(*given))

    def step(wanted: bool = True, gates: Tensor = gates, bare: bool = False) -> list[Tensor]:
        x = inputs(holder, 2).requires_grad_(wanted)
        banks.set("unet", gates)
        token = running.set("somebody else") if bare else None
        made = holder(x)
        if token is not None:
            running.reset(token)
        assert bank.calls or bare, "what was opened ran"
        banks.set("unet", None)
        return [made.detach(), torch.autograd.grad(made.square().sum(), x)[0]] if wanted else [made.detach()]

    with in_place():
        first, again = step(), step()
        assert len(added) == 1 and torch.equal(own, kept)
        x = inputs(holder, 2).double().requires_grad_()
        whole = expected(holder, banks, gates, x)
        wanted = [whole.detach(), torch.autograd.grad(whole.square().sum(), x)[0]]
        for found in (first, again):
            for mine, one in zip(found, wanted):
                torch.testing.assert_close(mine.double(), one, rtol=1e-4, atol=1e-3)
        assert torch.equal(step(wanted=False)[0], first[0]) and len(added) == 2, "a picture is drawn as ever"
        other = step(bare=True)[0]
        assert len(added) == 3 and torch.equal(other, holder(inputs(holder, 2))), "nor for another session"
        open_by_gradient = gates.clone().requires_grad_()
        step(gates=open_by_gradient), step(gates=open_by_gradient)
        assert len(added) == 5
        step(), step()
        own.mul_(2)
        assert len(added) == 6
        torch.testing.assert_close(step()[0].double(), expected(holder, banks, gates, x), rtol=1e-4, atol=1e-4)
        assert len(added) == 7, "the weight is another one"
    step(), step()
    assert len(added) == 9, "outside of a search"
    banks.detach()
