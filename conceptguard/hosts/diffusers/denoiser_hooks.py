"""Hooks on the denoiser: gates are computed from the conditioning that arrives, whoever made it and whoever calls.

So embeddings and custom loops are guarded like text, and a classic pipeline like a modular one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import GuardError, Refused
from ...generation.conditioning import Branch, Encoded
from ...generation.denoising import Conditions, Drawn, Moment, SkipChange, Skips
from ...runtime.bank import running
from ..denoising.attention_maps import cross_attentions
from .adapters import scale_of
from .caches import Caches
from .denoiser_call import DenoiserCall, latents_of, with_latents
from .held import Held
from .perturbed import Perturbed, alike, twice
from .side_networks import Networks, given_by_networks
from .skip_connections import change, recorded
from .unread import strangers, told_of

if TYPE_CHECKING:
    from ...protocols import DrawingSession
    from ..denoising.families import Family
    from .prompts import Seen
    from .sides import Side, Sides


class DenoiserHooks:
    """Hooks before and after a denoiser.

    model: the denoiser; sides: the sessions that it can be under; name: whose it is, for messages
    away: rows of a call -> for each whether it stands where the caller puts what a picture is drawn away from, None
    where nobody knows
    scheduler: gives the scheduler that steps from what the denoiser predicts
    perturbed: the pipeline's perturbed attention, whose rows guards do not see
    networks: what reads the prompt beside the denoiser
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        sides: Sides,
        name: str,
        away: Callable[[int], list[bool | None]],
        scheduler: Callable[[], Any],
        perturbed: Perturbed,
        networks: Networks,
    ):
        self._model, self._family, self._sides, self._name, self._away = model, family, sides, name, away
        plain: Any = getattr(model, "_orig_mod", model)
        self._arguments = list(inspect.signature(type(plain).forward).parameters)
        self._scheduler, self._caches = scheduler, Caches(model)
        self._networks = networks
        self._perturbed, self._hidden = perturbed, 0  # how many rows of a call guards do not see
        self.attends = family.denoiser == "unet" and bool(cross_attentions(model))
        self._handles: list[Any] = []
        self._skip_handles: list[Any] = []
        self._rows: list[tuple[Seen | None, Branch | None]] = []
        self._last: list[Held] = []
        self._under: Side | None = None  # whom the last call was made under

    def open(self) -> None:
        """Whoever calls the denoiser from now on comes through here."""
        self.forget()
        self._networks.open(self._acting)
        self._handles = [
            self._model.register_forward_pre_hook(self._before, with_kwargs=True),
            self._model.register_forward_hook(self._after, with_kwargs=True),
            self._model.register_forward_hook(self._ended, always_call=True),
        ]

    def close(self) -> None:
        """Remove the hooks and everything that is remembered."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.forget()
        self._networks.close()
        self._rows.clear()
        self._under = None

    def forget(self, look: bool = True) -> None:
        """A pipeline call begins or ended: the next conditioning is new, even if it is the same tensor, and nothing in
        a cache is of it.

        look: whether a cache may have been enabled since, which takes a walk through the model
        """
        self._leave_skips()
        self._last.clear()
        if (side := self._sides.at_work()) is not None:
            side.callers.forget()
            side.adapters[self._family.denoiser].begin()
        if look:
            self._caches.forget()
        else:
            self._caches.empty()

    def check(self) -> None:
        """Raises SessionError for a denoiser whose rows some cache leaves out."""
        self._caches.check()

    def check_networks(self) -> None:
        """Raises GuardError where others are beside the denoiser than when the policy was attached."""
        self._networks.check()

    def check_stepped(self) -> None:
        """Raises GuardError where latents were moved at the end of a pipeline call and no step was made from them."""
        if self._side.callers.state.pending():
            raise GuardError("a guard moved the latents, and the pipeline's scheduler never stepped from them")

    @property
    def _side(self) -> Side:
        side = self._sides.at_work()
        assert side is not None
        return side

    def _acting(self) -> DrawingSession | None:
        side = self._sides.at_work()
        return None if side is None else side.session

    @property
    def session(self) -> DrawingSession:
        return self._side.session

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

    def _separate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether this call has the rows of one branch alone: of all branches of some pipelines, and of the one that
        Stable Diffusion 3 adds for skip-layer guidance."""
        return self._family.separate or bool(self._skipped(args, kwargs))

    def _skipped(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The numbers of the blocks that this call leaves out."""
        return self._argument("skip_layers", args, kwargs) if "skip_layers" in self._arguments else None

    @torch.compiler.disable  # outside the graph, which then knows nothing of sessions
    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        by, side = running.get(), self._sides.at_work()
        if side is None or by not in (None, side.session):
            return None
        if side.callers.visits(by) and side.callers.admit(side.session, module):
            self._last.clear()
        try:
            if side is not self._under:
                self._turn_to(side)
            return self._guarded(module, args, kwargs)
        except BaseException:
            side.callers.leave()
            raise

    def _turn_to(self, side: Side) -> None:
        """The call before was under another policy, or there was none: nothing of it holds for this one."""
        self._under = side
        self._last.clear()
        self._caches.forget()
        for other in self._sides.beside(side):  # a caller's own loop leaves gates open from call to call
            other.session.banks.set(self._family.denoiser, None)

    @torch.compiler.disable
    def _ended(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A call ended, or raised."""
        if (side := self._sides.at_work()) is not None:
            side.callers.leave()

    def _guarded(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inside = self.session.guidance_scale is not None
        rows = len(self._argument(self._family.sample, args, kwargs))
        self._hidden = self._perturbed.count(rows) if inside else 0
        changed = self._conditioned(module, args, kwargs)
        now_args, now_kwargs = changed or (args, kwargs)
        calls = self._networks.taken()
        if calls or given_by_networks(now_kwargs):
            conditions = self._condition(args, kwargs), self._condition(now_args, now_kwargs)
            beside = self._networks.guarded(calls, now_kwargs, rows, self._hidden, *conditions, self._rows)
            changed = changed if beside is None else (now_args, beside)
        if self._caches.any():
            gates = tuple(tuple(act.gates) for act in self.session.receipt.acts)
            self._caches.under(tuple(branch for _, branch in self._rows), (gates, changed is not None))
            self._decide_apart(changed is not None or any(map(any, gates)))
        return changed

    def _decide_apart(self, acts: bool) -> None:
        """Raises GuardError where a cache would let what a guard does to one picture decide about another one."""
        if not acts or len(Drawn.of([b for _, b in self._rows], self.session.guidance_scale).towards) < 2:
            return
        if name := self._caches.by_rows():
            raise GuardError(
                f"{name} decides for all pictures of a call by what they look like together, so a guarded one would "
                "change the others: draw one picture a call, or use a cache that decides by the step (MagCache, "
                "TaylorSeer, pyramid attention broadcast), or none (disable_cache())"
            )

    def _condition(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Embeddings [rows, tokens, width] and, where the denoiser takes them, pooled ones."""
        path = self._family.pooled
        holder = self._argument(path[0], args, kwargs) if path else None
        pooled = (holder or {}).get(path[1]) if len(path) == 2 else holder
        return self._argument("encoder_hidden_states", args, kwargs), pooled

    def _conditioned(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """(args, kwargs) as guards have them, None where they are the caller's."""
        embeds, pooled = given = self._condition(args, kwargs)
        new = not self._last or not all(held.still(tensor) for held, tensor in zip(self._last, given))
        adapters = self._side.adapters[self._family.denoiser]
        if new and self.session.guidance_scale is None:  # of a caller's own loop nothing says when it begins
            adapters.begin()
        new |= adapters.check(scale_of(kwargs))
        embeds, pooled = self._seen(embeds), self._seen(pooled)
        if new:
            self._read(embeds, pooled, bool(self._skipped(args, kwargs)))
            told_of(self.session, strangers(kwargs))
            self._last = [Held.of(tensor) for tensor in given]

        time, sample = self._seen(self._time(args, kwargs)), self._argument(self._family.sample, args, kwargs)
        latents = self._seen(latents_of(self._model, sample))
        call, separate = self._call(module, args, kwargs), self._separate(args, kwargs)

        def conditions(guidance: float | None, moment: Moment) -> Conditions:
            texts, asked = zip(*((s.text, s.prompts) if s else (None, None) for s, _ in self._rows))
            branches = [branch for _, branch in self._rows]
            schedule = self._scheduler().timesteps
            made = Conditions(
                list(texts), list(asked), embeds, pooled, branches, guidance, moment, separate=separate,
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
            again = [self._further(changes, len(latents)) for changes in safe.skip_changes if self._hidden]
            self._skip_handles = change(module, [*safe.skip_changes, *again])
        by, state = None, self._side.callers.state
        if safe.moves is not None or state.pending():
            now, images = float(torch.as_tensor(time).max()), self._images(safe, latents)
            by = state.move(self._scheduler(), now, latents, safe.moves, images)
        if safe.embeds is embeds and safe.pooled is pooled and by is None:
            return None
        if safe.pooled is not pooled and safe.pooled is not None:
            path, whole = self._family.pooled, twice(safe.pooled, self._hidden)
            held = {**(self._argument(path[0], args, kwargs) or {}), path[1]: whole} if len(path) == 2 else whole
            args, kwargs = self._changed(path[0], held, args, kwargs)
        if by is not None:
            moved = with_latents(sample, twice(latents + by, self._hidden))
            args, kwargs = self._changed(self._family.sample, moved, args, kwargs)
        return self._changed("encoder_hidden_states", twice(safe.embeds, self._hidden), args, kwargs)

    def _seen(self, value: Any) -> Any:
        """The rows that guards see."""
        return value[: -self._hidden] if self._hidden and isinstance(value, Tensor) and value.ndim else value

    def _further(self, changes: SkipChange, seen: int) -> SkipChange:
        """The same for the perturbed rows of these."""
        return changes._replace(rows=[row + self._hidden for row in changes.rows if row >= seen - self._hidden])

    def _call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DenoiserCall:
        return DenoiserCall(self._family, module, args, kwargs, self, self._plain, self.session.host.lengthened)

    @contextmanager
    def _plain(self) -> Iterator[None]:
        with self._caches.aside(), self._perturbed.unperturbed():
            yield

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
            guided = conditions.guidance_scale > 1 and not conditions.separate  # which a distilled model ignores
            both = guided and torch.equal(latents[:half], latents[half:])
            return [row % half if both else row for row in rows]
        found = list(rows)
        for row, other in conditions.away_from().items():
            if other is not None:
                found[row] = other
        return found

    def _read(self, embeds: Tensor, pooled: Tensor | None, towards: bool) -> None:
        """Gates for the conditions that reached the denoiser. The pipelines pass one tensor at every step: once a call,
        or at every step where branches come one after the other.

        towards: whether all of them are what pictures are drawn towards
        """
        away = [False] * len(embeds) if towards else self._away(len(embeds))
        beside = [None] * len(embeds) if pooled is None else pooled
        memory = self._side.memory
        found = [memory.known(row, bool(a), p) for row, a, p in zip(embeds, away, beside)]
        memory.options = next((f.options for f in found if f is not None and f.branch == "conditional"), {})
        if running.get() is None and self.session.has("encode_prompt") and None in found:
            raise Refused(
                f"policy '{self.session.policy.name}' reads prompts, and this call of the {self._family.denoiser} has "
                "an embedding that no guard has read: call the pipeline that the policy is attached to, or encode by it"
            )
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
        self.session.banks.again = self._hidden
        self.session.open_gates(
            self.session.host.denoiser_name, _as_read(self._family.reading(embeds), found),
            [f.ids if f else None for f in found], [f.text if f else None for f in found], branches,
        )  # fmt: skip

    @torch.compiler.disable
    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        side = self._sides.at_work()
        if side is None or running.get() not in (None, side.session):
            return None
        self._leave_skips()
        latents = self._seen(self._argument(self._family.sample, args, kwargs))
        prediction = self._seen(output[0])

        call, stood_in = self._call(module, args, kwargs), False
        skipped = self._skipped(args, kwargs)

        def resting(name: str) -> bool:
            nonlocal stood_in
            rests, stands = self._resting(name, skipped or ())
            if stands and not self._caches.ready():
                raise GuardError(
                    f"layer {name} did not run, so its guard had no effect: {self._caches.name()} stood in for it with "
                    "what another branch or prompt had left; use another cache, or none (disable_cache())"
                )
            stood_in |= stands
            return rests or stands

        changed = self.session.after_denoise(
            self._seen(self._time(args, kwargs)),
            latents,
            prediction,
            call.denoise,
            self._separate(args, kwargs),
            resting,
        )
        if self._caches.any() and not stood_in:
            self._caches.filled()
        if changed is prediction:
            return None
        self._decide_apart(True)
        changed = alike(changed, output[0])
        return (changed, *output[1:]) if isinstance(output, tuple) else type(output)(sample=changed)

    def _resting(self, name: str, skipped: Sequence[int]) -> tuple[bool, bool]:
        """Whether a layer is in a part of the denoiser that is left out of this call, as skip-layer guidance does with
        whole blocks; and whether it is in one that a cache may stand in for.

        skipped: blocks that the call itself leaves out
        """
        part, cached = self._model, False
        _, *path = name.split(".")
        if path[0] == "transformer_blocks" and int(path[1]) in skipped:
            return True, False
        for step in path:
            part = getattr(part, step)
            registry = getattr(part, "_diffusers_hook", None)
            if registry is not None and any("Skip" in type(hook).__name__ for hook in registry.hooks.values()):
                return True, False
            cached = cached or self._caches.holds(part)
        return False, cached


def _as_read(embeds: Tensor, found: Sequence[Seen | None]) -> Tensor:
    """Rows as gates read them: of texts that were encoded in another way than gates were measured on, as these are."""
    if all(f is None or f.read is None for f in found):
        return embeds
    rows = list(embeds)
    for i, f in enumerate(found):
        if f is not None and f.read is not None:
            rows[i] = f.read[: len(rows[i])].to(rows[i])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
