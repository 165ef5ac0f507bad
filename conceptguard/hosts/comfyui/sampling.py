"""One sampling of a guarded MODEL: hooks on the diffusion model, as long as it takes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import GuardError, Refused
from ...generation.denoising import Conditions, Moment
from ...runtime.bank import running
from .caches import decide_apart, has_cache, stood_in
from .call import ComfyCall
from .conditions import Condition
from .latent_updates import LatentUpdates
from .sampling_conditions import SamplingConditions
from .text import Seen, mark_of
from .weight_patches import hooks_of
from .windows import Layout, Windowed, encoded, gates_by_window, has_long, layout, windowed

if TYPE_CHECKING:
    from ...protocols import DrawingSession
    from .model import GuardedModel


class Sampling:
    """From the first look at a guider's conditions to its last step. Raises what guards raise, GuardError, Refused."""

    def __init__(self, host: GuardedModel, session: DrawingSession):
        self.host, self.session = host, session
        self._given = SamplingConditions(host, session)
        self._rows: list[Condition] = []
        self._last: tuple[Tensor, list[str | None]] | None = None
        self._ran: list[Any] = []  # the gates of calls in which the model ran
        self._windows: Layout | None = None
        self._alone: list[list[float]] = []
        self._call: ComfyCall | None = None
        self._moves = LatentUpdates()

    def run(self, executor: Any, noise: Tensor, latent: Tensor, sampler: Any, *args: Any, **kwargs: Any) -> Any:
        """The sampling itself. executor: what ComfyUI gives to a wrapper around it."""
        guider = executor.class_obj
        if self.host.weight_patches is not None:
            self.host.weight_patches.check(self.host.denoiser_name, guider.model_patcher, hooks_of(guider.conds))
        self._tell_of_encoders()
        self._given.learn(guider.conds)
        if self.session.has("condition"):
            sampler = self._moves.watched(sampler)
        model: nn.Module = self.host.base.diffusion_model
        handles = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after, with_kwargs=True),
        ]
        try:
            result = executor(noise, latent, sampler, *args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        if not self.session.receipt.steps:
            raise GuardError("a sampler went past the guards: the guarded MODEL was never called")
        return result

    def given(self, latents: Tensor) -> Tensor:
        """What ComfyUI's own model is to be called with instead of ``latents``: the same, and guards can move it."""
        return self._moves.given(latents)

    def _tell_of_encoders(self) -> None:
        """Terms beside a text encoder have acted before, if at all: a receipt must not pass over those that did not."""
        if not any(prefix.startswith("text_encoder") for prefix in self.session.banks.prefixes()):
            return
        for method, terms in zip(self.session.methods_with_terms, self.session.banks.terms):
            if beside := sum(name.startswith("text_encoder") for name in terms.factors):
                method.act.notes.append(f"{beside} layers of the text encoder act through Guard Encoder")

    # Before and after each call of the diffusion model.

    @torch.compiler.disable  # outside the graph, which then knows nothing of sessions
    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if running.get() is not self.session:
            return None
        context = kwargs.get("context")
        if context is None:
            raise GuardError("this model was called without a text conditioning, so its guards could not be opened")
        names = self._given.names(kwargs.get("transformer_options") or {}, len(context))
        if self._last is None or names != self._last[1] or not _equal(context, self._last[0]):
            self._open(context, names)
            self._last = context, names
        call = self._call = ComfyCall(self.host, module, args, kwargs, self._moves.channels(args[0]))
        if has_cache(call.options):
            pictures = len(context) // len(call.options.get("cond_or_uncond") or [0])
            decide_apart(call.options, pictures, any(map(any, self._gates())))
        asked = self._ask(call)
        if asked is None:
            return None
        by = self._moves.move(call.latents, asked.moves, self._scale) if self._moves.pending(asked.moves) else None
        if asked.embeds is context and by is None and not asked.skip_changes:
            return None
        new_args, changed = call.changed(asked.embeds, asked.pooled, by, asked.skip_changes)
        return new_args, {**kwargs, **changed}

    def _gates(self) -> list[list[float]]:
        return [act.gates for act in self.session.receipt.acts]

    def _ask(self, call: ComfyCall) -> Conditions | None:
        """A call's conditions after guards; None where no guard reads them."""
        whole: Conditions | None = None
        with ExitStack() as stack:

            def conditions(guidance: float | None, moment: Moment) -> Conditions:
                nonlocal whole
                whole = self._conditions(call, guidance, moment)
                if self._windows is None:
                    return whole
                acts = [method.act for method in self.session.methods_with_terms]
                stack.enter_context(gates_by_window(list(zip(acts, self._alone)), self._windows.origin))
                return windowed(whole, self._windows)

            given = self.session.before_denoise(call.time, conditions)
            if isinstance(given, Windowed):
                given.join()
        return whole

    def _conditions(self, call: ComfyCall, guidance: float | None, moment: Moment) -> Conditions:
        rows, family = self._rows, self.host.family
        branches = [row.branch for row in rows]
        # Whether both branches come in one call is for ComfyUI to decide, by memory and by what is wired to each.
        one_sided = len({branch == "conditional" for branch in branches}) == 1
        made = Conditions(
            [row.text for row in rows], [row.prompts for row in rows], call.context, call.pooled, list(branches),
            guidance, moment, separate=family.separate or (one_sided and guidance is not None and guidance > 1),
            timestep=call.time, latents=call.latents, last=self._end(call),
        )  # fmt: skip
        if self.host.attends():
            made.attend = call.attend
        if family.denoiser == "unet":
            made.skips = lambda rows: call.skips(encoded(made, rows), rows)
        return made

    def _split(self, rows: list[Condition], context: Tensor) -> None:
        """Where a prompt is longer than a window: the windows, and which gates each of them opens by itself. Raises
        GuardError where a guard that is open cannot be shown them."""
        host, size = self.host, self.host.window + 2
        self._windows = layout(rows, size) if has_long(rows, size) and host.family.begins else None
        if self._windows is not None:
            bank = self.session.gate_bank(host.denoiser_name, host.read)
            read = host.family.reading(self._windows.cut(context))
            self._alone = bank(read, [part.ids for part in self._windows.parts]).T.tolist()
        elif has_long(rows, size):
            for method in self.session.methods:
                if hasattr(method, "condition") and any(method.act.gates):
                    raise GuardError(
                        f"guard '{method.guard.label}' reads a prompt window by window, and {rows[-1].text!r} is "
                        "joined of other parts: leave out Conditioning (Concat), or use a guard with terms"
                    )

    def _end(self, call: ComfyCall) -> float:
        """The timestep, of 1,000, with which this sampling ends."""
        sigmas = call.options.get("sample_sigmas")
        left = [] if sigmas is None else sigmas[sigmas > 0]
        if not len(left):
            return 0.0
        return float(self.host.base.model_sampling.timestep(left[-1:])[0]) * self.host.family.clock

    def _scale(self) -> float:
        """The number by which ComfyUI scales latents for the diffusion model in this call."""
        assert self._call is not None
        sigma = self._call.options["sigmas"][:1]
        return float(self.host.base.model_sampling.calculate_input(sigma, torch.ones(1, 1, 1, 1).to(sigma)))

    def _open(self, context: Tensor, names: list[str | None]) -> None:
        """Gates for the conditions that reached the diffusion model."""
        rows = self._rows = [self._given.recall(row, name) for row, name in zip(context, names)]
        if self.host.family.readable is not None and any(row.texts is None for row in rows):
            raise Refused(
                f"a conditioning whose text is not known: what the other encoders of {self.host.name} add to it cannot "
                "be read; encode it through Guard Encoder"
            )
        own = [row.read(self.host.family) for row in rows]
        longest = max(map(len, own))
        # Repeating the last position adds nothing to what is found in a text.
        embeds = torch.stack([torch.cat([o, o[-1:].expand(longest - len(o), -1)]) for o in own])
        self.session.open_gates(
            self.host.denoiser_name, embeds, [row.ids for row in rows], [row.text for row in rows],
            [row.branch for row in rows],
        )  # fmt: skip
        self._check_encoded(rows)
        if self.session.has("condition"):
            self._split(rows, context)

    def _check_encoded(self, rows: list[Condition]) -> None:
        """Raises GuardError where a guard that acts in text encoders alone is open, and did not act in them."""
        for guard, terms in zip(self.session.methods_with_terms, self.session.banks.terms):
            if not terms.in_encoders:
                continue
            for row, gate in zip(rows, guard.act.gates):
                if gate and not all(mark_of(guard) in seen.acted for seen in row.texts or [_UNKNOWN]):
                    what = "a conditioning of unknown text" if row.text is None else repr(row.text)
                    raise GuardError(
                        f"guard '{guard.guard.label}' acts in the text encoder, and {what} was not encoded under it: "
                        "encode it through Guard Encoder, with the same policy"
                    )

    @torch.compiler.disable
    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if running.get() is not self.session:
            return None
        assert self._call is not None
        call = self._call.with_sample(args[0])
        left_out = stood_in(call.options)
        if has_cache(call.options) and not left_out and self._gates() not in self._ran:
            self._ran.append(self._gates())
        changed = self.session.after_denoise(
            call.time, args[0], output, call.denoise, separate=True,
            resting=lambda name: left_out and self._gates() in self._ran,
        )  # fmt: skip
        self.host.on_step(self.session.receipt, False)
        return None if changed is output else changed


_UNKNOWN = Seen(torch.zeros(0, 0), "", None, [])

# What ComfyUI's own nodes make of guidance and leave on the side that its scale says: file of the function, node.
_KEEP_SIDES = {
    ("nodes_cfg", "CFGZeroStar"), ("nodes_cfg", "CFGNorm"), ("nodes_eps", "EpsilonScaling"),
    ("nodes_eps", "TemporalScoreRescaling"), ("nodes_lumina2", "RenormCFG"), ("nodes_mahiro", "Mahiro"),
    ("nodes_model_advanced", "RescaleCFG"), ("nodes_pag", "PerturbedAttentionGuidance"),
    ("nodes_slg", "SkipLayerGuidanceDiT"), ("nodes_slg", "SkipLayerGuidanceDiTSimple"), ("nodes_tcfg", "TCFG"),
}  # fmt: skip
_GUIDANCE = ("sampler_cfg_function", "sampler_calc_cond_batch_function")
_GUIDANCES = ("sampler_pre_cfg_function", "sampler_post_cfg_function")


def guidance_of(guider: Any) -> float | None:
    """The scale of classifier-free guidance; None where a guider, or a node's function, composes predictions its own
    way."""
    from comfy.samplers import CFGGuider

    options = guider.model_options
    functions = [options[name] for name in _GUIDANCE if name in options]
    functions += [function for name in _GUIDANCES for function in options.get(name, ())]
    plain = type(guider).predict_noise is CFGGuider.predict_noise
    return float(guider.cfg) if plain and all(map(_keeps_sides, functions)) else None


def _keeps_sides(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    file = Path(code.co_filename) if code else Path()  # a server imports these files under names of its own
    node = str(getattr(function, "__qualname__", "")).partition(".")[0]
    return file.parent.name == "comfy_extras" and (file.stem, node) in _KEEP_SIDES


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)
