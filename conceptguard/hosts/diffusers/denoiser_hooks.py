"""Hooks on the denoiser: gates are computed from the conditioning that arrives, whoever made it and whoever calls.

So embeddings and custom loops are guarded like text, and a classic pipeline like a modular one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import GuardError, Refused
from ...generation.conditioning import Branch, Encoded
from ...generation.denoising import Conditions, Moment, Skips
from ...runtime.banks import running
from ..denoising.attention_maps import cross_attentions
from .denoiser_call import DenoiserCall, latents_of, with_latents
from .sampler_state import SamplerState
from .skip_connections import change, recorded

if TYPE_CHECKING:
    from ...protocols import DrawingSession
    from ..denoising.families import Family
    from .prompts import Memory, Seen


class DenoiserHooks:
    """Hooks before and after a denoiser.

    model: the denoiser; name: whose it is, for messages
    away: rows of a call -> for each whether it stands where the caller puts what a picture is drawn away from, None
    where nobody knows
    scheduler: gives the scheduler that steps from what the denoiser predicts
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        memory: Memory,
        name: str,
        away: Callable[[int], list[bool | None]],
        scheduler: Callable[[], Any],
    ):
        self._model, self._family, self._memory, self._name, self._away = model, family, memory, name, away
        plain: Any = getattr(model, "_orig_mod", model)
        self._arguments = list(inspect.signature(type(plain).forward).parameters)
        self._scheduler, self._state = scheduler, SamplerState()
        self.attends = family.denoiser == "unet" and bool(cross_attentions(model))
        self._session: DrawingSession | None = None
        self._handles: list[Any] = []
        self._skip_handles: list[Any] = []
        self._rows: list[tuple[Seen | None, Branch | None]] = []
        self._last: list[tuple[Tensor | None, int | None]] = []

    def open(self, session: DrawingSession) -> None:
        """Whoever calls the denoiser from now on comes through here."""
        self._session = session
        self._handles = [
            self._model.register_forward_pre_hook(self._before, with_kwargs=True),
            self._model.register_forward_hook(self._after, with_kwargs=True),
        ]

    def close(self) -> None:
        """Remove the hooks and everything that is remembered."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._leave_skips()
        self._state.clear()
        self._rows.clear()
        self._last.clear()
        self._session = None

    def forget(self) -> None:
        """A pipeline call begins or ended: the next conditioning is new, even if it is the same tensor."""
        self._leave_skips()
        self._state.clear()
        self._last.clear()

    def check_stepped(self) -> None:
        """Raises GuardError where latents were moved at the end of a pipeline call and no step was made from them."""
        if self._state.pending():
            raise GuardError("a guard moved the latents, and the pipeline's scheduler never stepped from them")

    @property
    def session(self) -> DrawingSession:
        assert self._session is not None
        return self._session

    def _argument(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One argument of a denoiser call, None where it was not given."""
        place = self._arguments.index(name) - 1  # self
        return kwargs[name] if name in kwargs else args[place] if place < len(args) else None

    def _changed(self, name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """(args, kwargs) with one argument of a denoiser call replaced."""
        place = self._arguments.index(name) - 1
        if name in kwargs or place >= len(args):
            return args, {**kwargs, name: value}
        return (*args[:place], value, *args[place + 1 :]), kwargs

    def _time(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The timestep of a denoiser call, of 1,000."""
        timestep = self._argument("timestep", args, kwargs)
        return timestep if self._family.clock == 1 else timestep * self._family.clock

    @torch.compiler.disable  # outside the graph, which then knows nothing of sessions
    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if running.get() not in (None, self._session):
            return None
        embeds = self._argument("encoder_hidden_states", args, kwargs)
        path = self._family.pooled
        holder = self._argument(path[0], args, kwargs) if path else None
        pooled = (holder or {}).get(path[1]) if len(path) == 2 else holder
        given = [(t, _version(t)) for t in (embeds, pooled)]
        if not self._last or any(a is not b or v != w for (a, v), (b, w) in zip(given, self._last)):
            self._read(embeds, pooled)
            self._last = given

        time, sample = self._time(args, kwargs), self._argument(self._family.sample, args, kwargs)
        latents = latents_of(self._model, sample)
        call = DenoiserCall(self._family, module, args, kwargs, self)

        def conditions(guidance: float | None, moment: Moment) -> Conditions:
            texts, asked = zip(*((s.text, s.prompts) if s else (None, None) for s, _ in self._rows))
            branches = [branch for _, branch in self._rows]
            schedule = self._scheduler().timesteps
            made = Conditions(
                list(texts), list(asked), embeds, pooled, branches, guidance, moment, separate=self._family.separate,
                timestep=time, latents=latents, last=0.0 if schedule is None else float(schedule[-1]),
                attend=call.attend if self.attends else None,
            )  # fmt: skip
            if hasattr(module, "up_blocks"):
                made.skips = lambda rows: self._skips(module, call, made, list(rows))
            return made

        self._leave_skips()
        safe = self.session.before_denoise(time, conditions)
        if safe is None:
            return None
        if safe.skip_changes:
            self._skip_handles = change(module, safe.skip_changes)
        by = None
        if safe.moves is not None or self._state.pending():
            now, images = float(torch.as_tensor(time).max()), self._images(safe, latents)
            by = self._state.move(self._scheduler(), now, latents, safe.moves, images)
        if safe.embeds is embeds and safe.pooled is pooled and by is None:
            return None
        if safe.pooled is not pooled:
            held = {**(holder or {}), path[1]: safe.pooled} if len(path) == 2 else safe.pooled
            args, kwargs = self._changed(path[0], held, args, kwargs)
        if by is not None:
            args, kwargs = self._changed(self._family.sample, with_latents(sample, latents + by), args, kwargs)
        return self._changed("encoder_hidden_states", safe.embeds, args, kwargs)

    def _skips(self, module: nn.Module, call: DenoiserCall, given: Conditions, rows: list[int]) -> list[Skips]:
        if self.session.host.compiled():
            raise GuardError("a compiled model's skip connections cannot be read: leave it uncompiled")
        pooled = None if given.pooled is None else given.pooled[rows]
        with recorded(module) as found:
            call.denoise(Encoded(given.embeds[rows], [], pooled), rows)
        return found

    def _leave_skips(self) -> None:
        for handle in self._skip_handles:
            handle.remove()
        self._skip_handles = []

    def _images(self, conditions: Conditions, latents: Tensor) -> list[int]:
        """For each row of which image it is. Of a caller's own loop only what guidance takes apart is known."""
        rows, half = range(len(latents)), len(latents) // 2
        if conditions.guidance_scale is not None:
            guided = conditions.guidance_scale > 1 and not self._family.separate  # which a distilled model ignores
            both = guided and torch.equal(latents[:half], latents[half:])
            return [row % half if both else row for row in rows]
        found = list(rows)
        for row, other in conditions.away_from().items():
            if other is not None:
                found[row] = other
        return found

    def _read(self, embeds: Tensor, pooled: Tensor | None) -> None:
        """Gates for the conditions that reached the denoiser. The pipelines pass one tensor at every step: once a call,
        or at every step where branches come one after the other."""
        away = self._away(len(embeds))
        beside = [None] * len(embeds) if pooled is None else pooled
        found = [self._memory.recall(row, bool(a), p) for row, a, p in zip(embeds, away, beside)]
        if self._family.readable is not None and any(f is None or f.ids is None for f in found):
            raise Refused(
                f"an embedding whose text the policy has not seen: what {self._name} adds to it by its other encoders "
                "cannot be read; pass the text, or encode it with this pipeline while the policy is attached"
            )
        # What was encoded as a negative prompt and stands where the caller puts its prompts is one of these.
        branches: list[Branch | None] = [
            None if f is None else "conditional" if a is False else f.branch for f, a in zip(found, away)
        ]
        self._rows = list(zip(found, branches))
        self.session.open_gates(
            self.session.host.denoiser_name, self._family.reading(embeds), [f.ids if f else None for f in found],
            [f.text if f else None for f in found], branches,
        )  # fmt: skip

    @torch.compiler.disable
    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if running.get() not in (None, self._session):
            return None
        self._leave_skips()
        latents = self._argument(self._family.sample, args, kwargs)
        prediction = output[0]

        call = DenoiserCall(self._family, module, args, kwargs, self)
        changed = self.session.after_denoise(
            self._time(args, kwargs), latents, prediction, call.denoise, self._family.separate, self._resting
        )
        if changed is prediction:
            return None
        return (changed, *output[1:]) if isinstance(output, tuple) else type(output)(sample=changed)

    def _resting(self, name: str) -> bool:
        """Whether a layer is in a part of the denoiser that a guider leaves out of this call, as skip-layer guidance
        does with whole blocks."""
        part = self._model
        for step in name.split(".")[1:]:
            part = getattr(part, step)
            registry = getattr(part, "_diffusers_hook", None)
            if registry is not None and any("Skip" in type(hook).__name__ for hook in registry.hooks.values()):
                return True
        return False


def _version(tensor: Tensor | None) -> int | None:
    """The same tensor may be written to."""
    return None if tensor is None or tensor.is_inference() else tensor._version
