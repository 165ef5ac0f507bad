"""All guards' terms beside one layer: the low-rank runtime's arithmetic.

    y = W x + (gate ⊙ (x downᵀ)) up          gate: [batch rows, open ranks]

A bank stacks the factors of every guard; a prompt opens a few gates; only the open ranks are gathered and multiplied,
and only on the rows that opened them. The base weight is never touched. With nothing open a layer is as it was.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BaseMismatch, GuardError
from .alike import Stack
from .layer_patch import layer_patch
from .lowrank import Factors, Part, layer_shape
from .once import is_in_place


class Open(NamedTuple):
    """What is multiplied at one layer until the gates change."""

    down: Tensor
    up: Tensor
    gates: Tensor | None  # [rows in `where`, ranks]; None where every such row has the same, folded into `up`
    where: slice | Tensor | None  # None: every row
    rows: int

    def view(self, y: Tensor) -> Tensor | None:
        """The open rows of ``y`` where they can take a product in place: in one piece, not picked out one by one."""
        if isinstance(self.where, Tensor):
            return None
        rows = y if self.where is None else y[self.where]
        return rows if rows.is_contiguous() else None


class OpenRows(NamedTuple):
    """Which rows have anything open, as in ``Open``; their gates [rows, ranks], and whether these are alike."""

    where: slice | Tensor | None
    gates: Tensor
    alike: bool

    @staticmethod
    def of(gates: Tensor, like: Tensor) -> OpenRows:
        """gates: [rows, ranks], of all rows; like: where the factors are"""
        opened = gates.any(dim=1).nonzero()[:, 0]
        first, last = int(opened[0]), int(opened[-1])
        # a slice is a view: no copy of the activations
        where = slice(first, last + 1) if last - first + 1 == len(opened) else opened
        own = gates[where].to(like.device, like.dtype)
        # Where gradients pass gates, they do so by a product of few numbers.
        alike = not own.requires_grad and bool(torch.equal(own, own[:1].expand_as(own)))
        return OpenRows(None if len(opened) == len(gates) else where, own, alike)


FOLDED = 2**20  # elements of a weight that a search may have a copy of, with terms in it

# Which session is generating in this thread. Another session's banks on a shared layer stay closed meanwhile.
running: ContextVar[object | None] = ContextVar("conceptguard_running", default=None)
_banks: weakref.WeakValueDictionary[int, Bank] = weakref.WeakValueDictionary()


class Bank:
    """All guards' terms beside one layer.

    down: [ranks, in(, kh, kw)], up: [ranks, out], kept where the layer's weight is and in its floating dtype.
    spans: guard index -> its ranks in the stack. scale: of the weight that runs beside them, see ``patched``.
    """

    def __init__(
        self, name: str, layer: nn.Module | Part, factors: Mapping[int, Factors], session: object,
        stacks: Sequence[Stack] = (),
    ):  # fmt: skip
        self.name, self._session = name, session
        self._add = _way_to_add(layer)
        shape = layer_shape(layer)
        downs, ups, start = [], [], 0
        self.spans: dict[int, tuple[int, int]] = {}
        for guard, (down, up, scale) in factors.items():
            rank = down.shape[0]
            _check(name, shape, down, up)
            downs.append(down)
            up = up.reshape(shape[0], rank)
            ups.append((layer.order(up) if isinstance(layer, Part) else up).T * scale)
            self.spans[guard] = (start, start + rank)
            start += rank
        for stack in stacks:
            _check(name, shape, stack.down, stack.up)
            downs.append(stack.down)
            up = (layer.order(stack.up) if isinstance(layer, Part) else stack.up).T
            # In the precision of a product with a number, whatever the file's.
            ups.append(up if stack.scales is None else (up * stack.scales[:, None]).to(up.dtype))
            for i, guard in enumerate(stack.guards):
                self.spans[guard] = (start + i * stack.rank, start + (i + 1) * stack.rank)
            start += len(stack.down)
        self.down, self.up = (_in_one(parts, bool(factors), *_home(layer)) for parts in (downs, ups))
        self.open: Open | None = None
        self._closed: tuple[float, Open] | None = None  # what was open last, and beside which scale
        plain = type(layer) in (nn.Linear, nn.Conv2d)
        self._layer: nn.Linear | nn.Conv2d | None = layer if plain else None  # type: ignore[assignment]
        self._folded: tuple[int, Tensor] | None = None  # the layer's weight with what is open, and of which version
        self.scale = 1.0
        self.again = 0  # how many of the last rows some calls of the layer have a second time, or alone
        self._other: dict[int, Open | None] = {}  # for calls with these rows, by how many they are
        self.calls = 0
        self.key = id(self)
        _banks[self.key] = self
        self._outputs = layer.outputs if isinstance(layer, Part) else None
        self._patch = layer_patch(layer.whole if isinstance(layer, Part) else layer)

    @property
    def nbytes(self) -> int:
        """Bytes of the stacked factors."""
        return self.down.nbytes + self.up.nbytes

    def set(
        self, gates: Tensor, guards: list[int], coupled: frozenset[int], known: dict[Any, OpenRows] | None = None
    ) -> None:
        """Open the ranks of ``guards``. gates: [rows, all guards], on any device.

        known: what other layers found out about the same gates, to be added to; most layers have the same guards
        """
        here = [g for g in guards if g in self.spans]
        if not here:
            self._closed = None
            self.close()
            return
        known = {} if known is None else known
        plain, mixed = [g for g in here if g not in coupled], [g for g in here if g in coupled]
        down = [self.down[slice(*self.spans[g])] for g in plain]
        up = [self.up[slice(*self.spans[g])] for g in plain]
        ranks = tuple((g, self.spans[g][1] - self.spans[g][0]) for g in plain)
        key = (ranks, self.up.device, self.up.dtype)
        if mixed or key not in known:
            columns = [gates[:, g : g + 1].expand(-1, rank) for g, rank in ranks]
            if mixed:
                self._mix(gates, mixed, down, up, columns)
            found = OpenRows.of(torch.cat(columns, dim=1), self.up)
            if not mixed:
                known[key] = found
        else:
            found = known[key]
        stacked = up[0] if len(up) == 1 else torch.cat(up)
        if self.scale != 1.0:
            stacked = stacked * self.scale
        if found.alike:  # one prompt: one operation less at every layer
            stacked = stacked * found.gates[0][:, None]
        stack = down[0] if len(down) == 1 else torch.cat(down)
        if self._add is _add_pointwise:
            stack = stack.flatten(1)
        if self._add is not _add_linear:
            stacked = stacked.T
        elif found.alike:
            stack, stacked = _padded(stack), _padded(stacked)
        self.open = Open(stack, stacked, None if found.alike else found.gates, found.where, len(gates))
        self._closed = (self.scale, self.open) if is_in_place() else None
        self._folded = None
        self._other.clear()
        self.join()

    def reopen(self) -> bool:
        """Open what was open last, for the same gates. Gives whether there is that."""
        if self._closed is None or self._closed[0] != self.scale:
            return False
        self.open = self._closed[1]
        if self._folded is None:
            self._folded = _folded(self._layer, self.open, self.scale)
        self._other.clear()
        self.join()
        return True

    def instead(self, x: Tensor) -> Tensor | None:
        """In a step of a search that opens what the last one opened: the layer, once, with the terms in a copy of its
        weight. Gradients then go through one product, and not through three."""
        found, layer = self._folded, self._layer
        if found is None or self.open is None or torch.compiler.is_compiling():
            return None
        if not (x.requires_grad and torch.is_grad_enabled() and is_in_place()):
            return None
        assert layer is not None
        own, (version, weight) = layer.weight, found
        if running.get() not in (None, self._session) or len(x) != self.open.rows or x.dtype != weight.dtype:
            return None
        if own.requires_grad or own._version != version or own.device != weight.device:
            return None
        self.calls += 1
        if isinstance(layer, nn.Conv2d):
            return layer._conv_forward(x, weight, layer.bias)
        return F.linear(x, weight, layer.bias)

    def join(self) -> None:
        """Take part in the layer's forward."""
        self._patch.join(self)

    def close(self) -> None:
        """Add nothing, and leave the layer alone."""
        self.open = None
        self._other.clear()
        self._patch.part(self)

    def _mix(
        self, gates: Tensor, guards: list[int], down: list[Tensor], up: list[Tensor], columns: list[Tensor]
    ) -> None:
        """(Σ γ_i up_i)(Σ γ_j down_j) per row: one summed term for each distinct set of gates in the batch."""
        weights, row_of = torch.unique(gates[:, guards], dim=0, return_inverse=True)
        for i, weight in enumerate(weights):
            if not weight.any():
                continue
            ranks = {self.spans[g][1] - self.spans[g][0] for g in guards}
            if len(ranks) > 1:
                raise GuardError(f"compat: official sums membranes of one rank, not of ranks {sorted(ranks)}: drop it")
            down.append(sum(w.item() * self.down[slice(*self.spans[g])] for w, g in zip(weight, guards)))  # type: ignore[arg-type]
            up.append(sum(w.item() * self.up[slice(*self.spans[g])] for w, g in zip(weight, guards)))  # type: ignore[arg-type]
            columns.append((row_of == i).to(gates.dtype)[:, None].expand(-1, ranks.pop()))

    def add_to(self, x: Tensor, y: Tensor) -> Tensor | None:
        """Add the open terms to ``y``, or have the graph that is being traced call an operator that does."""
        # What is written into a view in place is copied whole on the way back: where there is one, the sum is anew.
        anew = self._outputs is None and torch.is_grad_enabled() and (y.requires_grad or x.requires_grad)
        if self._outputs is not None:
            y = y[..., self._outputs]
        if torch.compiler.is_compiling():
            # An opaque operator keeps gates out of the graph: opening and closing them never recompiles.
            torch.ops.conceptguard.add_terms(x, y, self.key)
        elif self.open is not None:
            return self.add(x, y, anew)
        return None

    def add(self, x: Tensor, y: Tensor, anew: bool = False) -> Tensor | None:
        """Add the open terms to ``y`` in place, or give the sum where it is wanted ``anew`` and every row is open.

        Raises GuardError when the batch is not the one the gates are for.
        """
        o = self.open
        if o is None or running.get() not in (None, self._session):
            return None
        if o.down.device != x.device or o.down.dtype != x.dtype:
            gates = o.gates if o.gates is None else o.gates.to(x)
            o = self.open = o._replace(down=o.down.to(x), up=o.up.to(x), gates=gates)
            self._other.clear()
        if x.shape[0] != o.rows:
            if x.shape[0] not in self._other:
                self._other[x.shape[0]] = self._for(o, x.shape[0])
            o = self._other[x.shape[0]]
        self.calls += 1
        if o is None:  # none of these rows is open
            return None
        return self._add(o, x if o.where is None else x[o.where], y, anew and o.where is None)

    def _for(self, o: Open, count: int) -> Open | None:
        """For a call that has the last rows twice, or alone. Raises GuardError for any other number of rows."""
        last = range(o.rows - self.again, o.rows)
        which = {len(last): [*last], o.rows + len(last): [*range(o.rows), *last]}.get(count) if last else None
        if which is None:
            raise GuardError(
                f"layer {self.name} got {count} rows where the prompts have {o.rows}: something split the batch; "
                "generate without batch splitting"
            )
        every = torch.arange(o.rows)
        where = o.where.cpu() if isinstance(o.where, Tensor) else o.where
        place = {row: i for i, row in enumerate((every if where is None else every[where]).tolist())}
        opened = [i for i, row in enumerate(which) if row in place]
        if not opened:
            return None
        gates = o.gates if o.gates is None else o.gates[[place[which[i]] for i in opened]]
        whole = len(opened) == count
        return o._replace(gates=gates, where=None if whole else torch.tensor(opened, device=o.up.device), rows=count)

    def detach(self) -> None:
        """Leave the layer and let go of the factors."""
        self.close()
        _banks.pop(self.key, None)


def _add_linear(o: Open, x: Tensor, y: Tensor, anew: bool) -> Tensor | None:
    """x: the open rows [rows, ..., in]; y: [batch, ..., out], changed in place unless ``anew``; up: [ranks, out]."""
    inner = F.linear(x.flatten(0, -2), o.down)
    if o.gates is not None:
        inner = (inner.unflatten(0, (len(o.gates), -1)) * o.gates[:, None]).flatten(0, 1)
    if anew:
        return torch.addmm(y.reshape(-1, y.shape[-1]), inner, o.up).view(y.shape)
    target = o.view(y)
    if target is not None:
        target.view(-1, target.shape[-1]).addmm_(inner, o.up)
    else:
        y[slice(None) if o.where is None else o.where] += (inner @ o.up).view(len(x), *y.shape[1:])
    return None


def _add_pointwise(o: Open, x: Tensor, y: Tensor, anew: bool) -> Tensor | None:
    """As beside a convolution, for 1 x 1; down: [ranks, in]."""
    return _add_inner(o, torch.bmm(o.down.expand(x.shape[0], -1, -1), x.flatten(2)), y, anew)


def _add_inner(o: Open, inner: Tensor, y: Tensor, anew: bool) -> Tensor | None:
    """inner: [rows, ranks, height * width]; y: [batch, out, height, width], changed in place unless ``anew``; up: [out,
    ranks].

    Convolving so few channels with 1 x 1 takes several times as long as the same sum as a product of matrices.
    """
    if o.gates is not None:
        inner = inner * o.gates[:, :, None]
    if anew:
        return torch.baddbmm(y.flatten(2), o.up.expand(inner.shape[0], -1, -1), inner).view(y.shape)
    target = o.view(y)
    if target is not None:
        target.flatten(2).baddbmm_(o.up.expand(inner.shape[0], -1, -1), inner)
    else:
        y[slice(None) if o.where is None else o.where] += (o.up @ inner).view(len(inner), *y.shape[1:])
    return None


def _way_to_add(layer: nn.Module | Part) -> Callable[[Open, Tensor, Tensor, bool], Tensor | None]:
    """Adds the product of an Open's factors with the open rows of a layer's input to its output."""
    if not isinstance(layer, nn.Conv2d):
        return _add_linear
    if layer.groups != 1:
        raise BaseMismatch("terms beside a grouped convolution are not supported: leave this layer out")
    stride, padding, dilation = layer.stride, layer.padding, layer.dilation
    if layer.kernel_size == (1, 1) and stride == (1, 1) and padding == (0, 0):
        return _add_pointwise
    return lambda o, x, y, anew: _add_inner(o, F.conv2d(x, o.down, None, stride, padding, dilation).flatten(2), y, anew)


@torch.no_grad()
def _folded(layer: nn.Linear | nn.Conv2d | None, o: Open, scale: float) -> tuple[int, Tensor] | None:
    """A copy of a layer's weight with what is open on every row added, and the weight's version; None where there is no
    such weight, or one so large that a product with few ranks beside it costs next to nothing."""
    weight = None if layer is None else layer.weight
    if weight is None or o.gates is not None or o.where is not None or scale != 1.0 or weight.numel() > FOLDED:
        return None
    if o.up.dtype != weight.dtype or o.up.device != weight.device:
        return None
    change = o.up @ o.down.flatten(1) if isinstance(layer, nn.Conv2d) else o.up.T @ o.down
    return weight._version, weight + change.view_as(weight)


def _padded(factor: Tensor) -> Tensor:
    """Rows of zeros up to the next multiple of 16: matrix kernels take twice as long for 10 ranks as for 16."""
    rank = len(factor)
    return factor if rank == 1 or not rank % 16 else F.pad(factor, (0, 0, 0, -rank % 16))


def _in_one(parts: list[Tensor], own: bool, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[ranks, ...], where a layer's terms are to be. own: a copy, whoever keeps the parts

    One stack stays what it is where it can, rows with gaps between them included: the files of a thousand membranes are
    then held once. A row, of which few are open, is in one piece either way.
    """
    if own or len(parts) > 1:
        return torch.cat(parts).to(device, dtype).contiguous()
    moved = parts[0].to(device, dtype)
    return moved if moved[:1].is_contiguous() else moved.contiguous()


def _home(layer: nn.Module | Part) -> tuple[torch.device, torch.dtype]:
    """Where the factors live: beside the weight, unless it is on no device (offloaded) or quantised."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):  # of torch's own quantised layers it is a function
        return torch.device("cpu"), torch.float32
    device = weight.device if weight.device.type != "meta" else torch.device("cpu")
    return device, weight.dtype if weight.dtype.is_floating_point and weight.dtype.itemsize > 1 else torch.float32


def _check(name: str, shape: tuple[int, ...], down: Tensor, up: Tensor) -> None:
    """Raises BaseMismatch where factors are for a layer of another shape."""
    if tuple(down.shape[1:]) != shape[1:] or tuple(up.shape[:2]) != (shape[0], len(down)):
        raise BaseMismatch(
            f"layer {name} is {list(shape)}, but a term of down {list(down.shape)} and up {list(up.shape)} was made "
            "for another one: use an artifact made for this base model"
        )


# Defined by hand: what ``torch.library.custom_op`` wraps around a function takes five times as long as the call.
_library = torch.library.Library("conceptguard", "DEF")
_library.define("add_terms(Tensor x, Tensor(a!) output, int bank) -> ()")


def _add_terms(x: Tensor, output: Tensor, bank: int) -> None:
    found = _banks.get(bank)
    if found is not None:
        found.add(x, output)


_library.impl("add_terms", _add_terms, "CompositeExplicitAutograd")
torch.library.register_fake("conceptguard::add_terms", lambda x, output, bank: None, lib=_library)
