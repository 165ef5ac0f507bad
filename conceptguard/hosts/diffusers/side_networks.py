"""Networks beside a denoiser that read the prompt, too: ControlNets and their like.

They run before the denoiser, and what they read is what the caller asked for. So when a guard turns out to act on a
row, such a network is asked once more for that row: with the embedding that the guard made of it or, where the guard
acts in the denoiser itself, with the empty prompt, which ControlNets are trained on, too. The denoiser is given that.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ...errors import GuardError
from ...generation.conditioning import Branch
from ...generation.denoising import Drawn
from ...runtime.bank import running
from ..denoising.rows import pick_rows
from .unread import note

if TYPE_CHECKING:
    from ..denoising.families import Family

# The denoiser's arguments that come from such networks; those of T2I-Adapters, which read no prompt, are others.
_RESIDUALS = (
    "down_block_additional_residuals", "mid_block_additional_residual", "controlnet_block_samples",
    "controlnet_single_block_samples", "block_controlnet_hidden_states",
)  # fmt: skip
Condition = tuple[Tensor, Tensor | None]  # embeddings [rows, tokens, width], pooled [rows, width]


class _Call(NamedTuple):
    """One call of a network: its arguments by name, and the tensors that it gave."""

    name: str
    module: nn.Module
    given: dict[str, Any]
    out: list[Tensor]


class Networks:
    """What stands beside the denoiser of a pipeline. owner: whose the repeated calls are: no session's."""

    def __init__(self, pipe: Any, denoiser: nn.Module, family: Family):
        self._pipe, self._denoiser, self._family = pipe, denoiser, family
        self._found: dict[str, nn.Module] = {}
        self._calls: weakref.WeakKeyDictionary[threading.Thread, list[_Call]] = weakref.WeakKeyDictionary()
        self._handles: list[Any] = []
        self._session: Callable[[], Any] = lambda: None

    def open(self, session: Callable[[], Any]) -> None:
        """Remember what they are called with from now on. session: gives the one that acts here"""
        self._found, self._session = self._look(), session
        for name, module in self._found.items():
            self._handles.append(module.register_forward_hook(self._keeper(name), with_kwargs=True))

    def close(self) -> None:
        """Forget all."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._found, self._session = [], {}, lambda: None
        self._calls.clear()

    def check(self) -> None:
        """Raises GuardError where the pipeline has others than when the policy was attached."""
        for name, module in self._look().items():
            if self._found.get(name) is not module:
                raise GuardError(f"pipe.{name} was replaced after attaching: detach, then attach again")

    def _look(self) -> dict[str, nn.Module]:
        parts = {name: part for name, part in vars(self._pipe).items() if isinstance(part, nn.Module)}
        return {name: part for name, part in parts.items() if part is not self._denoiser and _reads_embeddings(part)}

    def _keeper(self, name: str) -> Callable[..., None]:
        @torch.compiler.disable
        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if running.get() in (None, self._session()):
                given = inspect.signature(type(_plain(module)).forward).bind(module, *args, **kwargs).arguments
                del given["self"]
                given.update(given.pop("kwargs", {}))
                call = _Call(name, module, given, list(_tensors(output)))
                self._calls.setdefault(threading.current_thread(), []).append(call)

        return keep

    def taken(self) -> list[_Call]:
        """The calls of this thread since the denoiser's last one."""
        return self._calls.pop(threading.current_thread(), [])

    @torch.no_grad()
    def guarded(
        self, calls: Sequence[_Call], kwargs: dict[str, Any], total: int, hidden: int, own: Condition, safe: Condition,
        read: Sequence[tuple[Any, Branch | None]],
    ) -> dict[str, Any] | None:  # fmt: skip
        """The denoiser's arguments with what the networks make of the guarded prompts; None where no guard acts.

        total: rows of the denoiser's call; hidden: of these, at the end, copies of the rows before them
        own, safe: what it was to be conditioned on, and what guards made of that; read: the rows as they were read

        Raises GuardError for what comes from a network that is not the pipeline's, or was changed on its way.
        """
        session = self._session()
        pushed, seen = set(session.pushed()), total - hidden
        towards = Drawn.of([branch for _, branch in read], session.guidance_scale).towards
        rows = [row for row in towards if row in pushed or not _alike(own, safe, row)]
        if not rows:
            return None
        _tell(session, calls, rows, pushed, [text for text, _ in read])
        rows += [row + hidden for row in rows if row >= seen - hidden] if hidden else []
        pushed |= {row + hidden for row in pushed}
        conditions = self._instead(session, safe, rows, pushed)
        return self._given(calls, kwargs, total, rows, conditions)

    def _instead(self, session: Any, safe: Condition, rows: list[int], pushed: set[int]) -> Condition:
        """What networks are to read for some rows."""
        nothing = session.host.encode([""])
        embeds, pooled = safe
        empty = nothing.embeds[0, : embeds.shape[1]].to(embeds)
        if len(empty) < embeds.shape[1]:
            raise GuardError(
                f"this call reads {embeds.shape[1]} tokens a prompt, the guards' own texts are {len(empty)} long: give "
                "a smaller max_sequence_length"
            )
        found = torch.stack([empty if row in pushed else embeds[row] for row in rows])
        if pooled is None or nothing.pooled is None:
            return found, None
        none = nothing.pooled[0].to(pooled)
        return found, torch.stack([none if row in pushed else pooled[row] for row in rows])

    def _given(
        self, calls: Sequence[_Call], kwargs: dict[str, Any], total: int, rows: Sequence[int], conditions: Condition
    ) -> dict[str, Any]:
        """The arguments with what networks make of other conditions, one for each of ``rows``."""
        again = [(call, self._again(call, total, rows, conditions)) for call in calls if _reads(call)]
        reached: set[int] = set()

        def stand_in(leaf: Tensor) -> Tensor:
            for number, (call, fresh) in enumerate(again):
                for old, new in zip(call.out, fresh):
                    before = len(leaf) - len(old)  # in guess mode the first half is zeros
                    if leaf is old or (before == len(old) and leaf.shape[1:] == old.shape[1:] and _ends_in(leaf, old)):
                        reached.add(number)
                        return new if leaf is old else torch.cat([leaf[:before], new])
            raise GuardError(
                "the denoiser is given what a network beside it made of the prompt, and that is none of the "
                "pipeline's, or was changed on its way, so no guard can act on it: attach the policy to a pipeline "
                "that has the network, as StableDiffusionControlNetPipeline(**pipe.components, controlnet=...)"
            )

        changed = {name: _each(kwargs[name], stand_in) for name in _RESIDUALS if kwargs.get(name) is not None}
        for number, (call, _) in enumerate(again):
            if number not in reached:
                raise GuardError(
                    f"{call.name} reads the prompt, and what it makes of it reaches the denoiser in a way that no "
                    "guard knows: leave it out, or use guards that look at pictures"
                )
        return {**kwargs, **changed}

    def _again(self, call: _Call, total: int, rows: Sequence[int], conditions: Condition) -> list[Tensor]:
        """What a network gives, with other conditions for some of the denoiser's ``total`` rows."""
        own = call.given["encoder_hidden_states"]
        first = total - len(own)  # in guess mode it is given the rows alone that are drawn towards
        mine = [(row - first, i) for i, row in enumerate(rows) if row >= first]
        places, which = [place for place, _ in mine], [i for _, i in mine]
        some = {name: pick_rows(value, places, len(own)) for name, value in call.given.items()}
        embeds = conditions[0][which].to(own)
        if embeds.shape[1] < own.shape[1] or embeds.shape[2] != own.shape[2]:
            raise GuardError(
                f"{call.name} reads {list(own.shape[1:])} of a prompt, and the guards' own are "
                f"{list(embeds.shape[1:])}: give a smaller max_sequence_length"
            )
        some["encoder_hidden_states"] = embeds[:, : own.shape[1]]
        path = self._family.pooled
        if conditions[1] is not None and path and some.get(path[0]) is not None:
            pooled = conditions[1][which].to(own)
            some[path[0]] = {**some[path[0]], path[1]: pooled} if len(path) == 2 else pooled
        token = running.set(self)
        try:
            fresh = list(_tensors(call.module._call_impl(**{**some, "return_dict": False})))
        finally:
            running.reset(token)
        found = [old.clone() for old in call.out]
        for whole, part in zip(found, fresh):
            whole[places] = part.to(whole)
        return found


def _alike(own: Condition, safe: Condition, row: int) -> bool:
    return all(a is b or (a is not None and b is not None and torch.equal(a[row], b[row])) for a, b in zip(own, safe))


def _tell(session: Any, calls: Sequence[_Call], rows: Sequence[int], pushed: set[int], read: Sequence[Any]) -> None:
    """A note in the receipt of every guard that acts on a row."""
    names = " and ".join(dict.fromkeys(call.name for call in calls)) or "a network beside"
    for method in session.methods:
        for row in rows:
            if row < len(method.act.gates) and method.act.gates[row]:
                asked = "embeddings" if read[row] is None else repr(read[row].text)
                given = "no prompt" if row in pushed else "the guarded prompt"
                note(method.act, f"{names} read {given} in place of {asked}")


def given_by_networks(kwargs: dict[str, Any]) -> bool:
    """Whether a denoiser call is given what a network beside it made."""
    return any(kwargs.get(name) is not None for name in _RESIDUALS)


def _plain(module: nn.Module) -> nn.Module:
    return getattr(module, "_orig_mod", module)  # type: ignore[no-any-return]


def _reads_embeddings(module: nn.Module) -> bool:
    kind: Any = type(_plain(module))
    return _takes_embeddings(kind)


@cache
def _takes_embeddings(kind: Any) -> bool:
    return "encoder_hidden_states" in inspect.signature(kind.forward).parameters


def _reads(call: _Call) -> bool:
    return call.given.get("encoder_hidden_states") is not None


def _ends_in(leaf: Tensor, old: Tensor) -> bool:
    return torch.equal(leaf[len(leaf) - len(old) :], old)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a nest, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A nest with every tensor changed."""
    if isinstance(value, (list, tuple)):
        return type(value)(_each(part, change) for part in value)
    return change(value) if isinstance(value, Tensor) else value
