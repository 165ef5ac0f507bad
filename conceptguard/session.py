"""A session: one policy attached to one host object, from attach to detach."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from . import plugins
from .actions import act
from .banks import Banks, running
from .errors import ConceptGuardError, GuardError, Refused, SessionError
from .gates import GateBank
from .generation import Branch, Conditions, Drawn, Encoded, Images, Moment, Prompts, Step
from .hosts import host_for
from .method import Method
from .policy import Guard, Policy, load_policy
from .receipt import Act, Receipt, Row
from .registry import default_registry


class Session:
    """The guards of one policy at work on one host. Made by ``attach``; a context manager that detaches.

    ``receipt`` is the record of the last generation, ``methods`` the guards in the order of the policy.
    """

    def __init__(self, target: Any, policy: Policy):
        self.policy = policy
        self.host = host_for(target)
        self.attached = False
        self._lock = threading.RLock()
        self._manager = plugins.session_manager()
        self.methods: list[Method] = []
        self._gate_banks: dict[str, GateBank] = {}
        self._guidance: float | None = None
        self._moment, self._now = Moment(), float("nan")
        self._branches: list[Branch | None] = []
        self._open: list[Act] = []
        self._told: dict[tuple[tuple[str | None, str | None], ...], list[list[float]]] = {}
        self.layers = self.host.layers()
        for guard in policy.guards:
            self.methods.append(self._load(guard))
        for i, method in reversed(list(enumerate(self.methods))):
            # Pluggy calls the last registered first; a policy is read from the top.
            self._manager.register(method, name=f"{i}: {method.guard.label}")
        place = {id(method): i for i, method in enumerate(self.methods)}
        found = [(place[id(terms.owner)], terms) for terms in self._call("cross_attention", layers=self.layers)]
        self._terms = sorted(found, key=lambda pair: pair[0])
        self.banks = Banks(self.layers, [terms for _, terms in self._terms], self)
        try:
            self.gate_bank(self.host.denoiser_name, self.host.read)
            self.start()
            self.host.attach(self)
        except BaseException:
            self.banks.detach()
            raise
        self.attached = True

    def _load(self, guard: Guard) -> Method:
        artifact = default_registry().load(guard.artifact) if guard.artifact else None
        if artifact is not None:
            self.host.check_base(artifact)
        try:
            return plugins.method(guard.method)(guard, artifact, self.host)
        except ConceptGuardError:
            raise
        except Exception as error:
            raise _failed(guard, error) from error

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        if self.attached:
            self.detach()

    def detach(self) -> None:
        """Remove every hook and reference from the host. Raises SessionError when already detached."""
        if not self.attached:
            raise SessionError(f"policy '{self.policy.name}' is not attached any more: it was detached before")
        with self._lock:
            self.attached = False
            self.host.detach()
            self.banks.detach()
            for plugin in list(self._manager.get_plugins()):
                self._manager.unregister(plugin)

    # What the host calls, in the order of one generation.

    def run(self, generate: Callable[[], Any], guidance_scale: float | None = None) -> Any:
        """One whole generation under this session: one at a time, closed again afterwards whatever happens."""
        with self._lock:
            token = running.set(self)
            started = time.perf_counter()
            self.start(guidance_scale)
            try:
                result = generate()
            finally:
                running.reset(token)
                self.close()
                self._tell()
                self.receipt.seconds = time.perf_counter() - started
            return result

    def start(self, guidance_scale: float | None = None) -> None:
        """A fresh receipt. guidance_scale: None where nobody says, as in a caller's own loop."""
        self._guidance, self._open, self._told = guidance_scale, [], {}
        self._moment, self._now = Moment(), float("nan")
        device, dtype = self.host.device_dtype()
        self.receipt = Receipt(self.policy.name, self.host.name, str(device), str(dtype).removeprefix("torch."))
        for method in self.methods:
            method.act = Act(method.guard.label, method.guard.strength)
        self.receipt.acts = [method.act for method in self.methods]
        for i, terms in self._terms:
            self.receipt.acts[i].layers = len(terms.factors)

    def close(self) -> None:
        """Close every gate."""
        self._open, self._guidance = [], None
        for prefix in self.banks.prefixes():
            self.banks.set(prefix, None)

    def _tell(self) -> None:
        """Where a step is several calls of the denoiser, the receipt tells of the rows of all of them."""
        if len(self._told) > 1:
            self.receipt.rows = [Row(text, branch) for rows in self._told for text, branch in rows]
            for i, act in enumerate(self.receipt.acts):
                act.gates = [gate for gates in self._told.values() for gate in gates[i]]

    @property
    def guidance_scale(self) -> float | None:
        """Of the running pipeline call; None outside of one."""
        return self._guidance

    def has(self, hook: str) -> bool:
        """Whether any active guard implements a hook."""
        return bool(getattr(self._manager.hook, hook).get_hookimpls())

    def encode_prompt(self, prompts: Prompts) -> None:
        """Let every guard see every condition of the call."""
        self._call("encode_prompt", prompts=prompts)

    def gate_bank(self, prefix: str, encode: Callable[[list[str]], Any]) -> GateBank:
        """The gates of all guards as one component's encoder sees them, built on first use."""
        if prefix not in self._gate_banks:
            gates = [terms.gate for _, terms in self._terms]
            known = (
                self.host.known() if prefix == self.host.denoiser_name and any(gate.prompts for gate in gates) else None
            )
            self._gate_banks[prefix] = GateBank(gates, encode, known)
        return self._gate_banks[prefix]

    def open_gates(
        self,
        prefix: str,
        embeds: Tensor,
        ids: Sequence[Sequence[int] | None],
        texts: Sequence[str | None],
        branches: Sequence[Branch | None],
    ) -> None:
        """New conditions reached a component: embeds [rows, tokens, width]. Sets the gates of every row."""
        if self.policy.unread == "refuse" and None in ids:
            raise Refused(
                f"row {list(ids).index(None)} is an embedding whose text policy '{self.policy.name}' has not seen: "
                "pass the text, or encode it with this pipeline while the policy is attached"
            )
        self._branches = list(branches)
        self.banks.traced = self.host.compiled()
        gates = self._gate_banks[prefix](embeds, ids)
        for column, (_, terms) in enumerate(self._terms):
            if terms.coupled:
                _couple(gates[:, column], branches)
            if terms.towards:
                towards = Drawn.of(branches, self._guidance).towards
                gates[[row for row in range(len(branches)) if row not in towards], column] = 0
        self.banks.set(prefix, gates)
        self.receipt.rows = [Row(text, branch) for text, branch in zip(texts, branches)]
        self._open = []
        for (i, terms), column in zip(self._terms, gates.T.tolist()):
            self.receipt.acts[i].gates = column
            if any(column) and terms.factors:
                self._open.append(self.receipt.acts[i])

    def before_denoise(
        self, timestep: Any, conditions: Callable[[float | None, Moment], Conditions]
    ) -> Conditions | None:
        """A denoiser call begins. Gives what guards made of its conditions, None where no guard reads them."""
        self.banks.start(self.host.denoiser_name)
        if not (self.has("condition") or self.has("predict_noise")):
            return None
        self._count(float(timestep.max() if isinstance(timestep, Tensor) else timestep))
        if not self.has("condition"):
            return None
        given = conditions(self._guidance, self._moment)
        self._call("condition", conditions=given)
        return given

    def _count(self, now: float) -> None:
        """Which call of which step this is. A caller's own loop that goes back to more noise begins anew."""
        last, before, call = self._moment, self._now, self.receipt.steps
        if before != before or (now > before and self._guidance is None):
            self._moment = Moment(call)
        elif now == before:
            self._moment = Moment(call, last.step, last.within + 1)
        else:
            self._moment = Moment(call, last.step + 1)
        self._now = now

    def after_denoise(
        self,
        timestep: Any,
        latents: Tensor,
        prediction: Tensor,
        denoise: Callable[[Encoded, Sequence[int]], Tensor] | None = None,
        separate: bool = False,
        resting: Callable[[str], bool] = lambda name: False,
    ) -> Tensor:
        """A denoiser call ended: what was open must have run; guards may change the prediction.

        denoise, separate: see ``Step``; resting: see ``Banks.verify``
        """
        self.banks.verify(self.host.denoiser_name, resting)
        index = self.receipt.steps
        self.receipt.steps += 1
        for opened in self._open:
            opened.steps.append(index)
        if self.has("predict_noise"):
            step = Step(
                index, timestep, latents, prediction, self._branches, self._guidance, self._moment, denoise, separate
            )  # fmt: skip
            self._call("predict_noise", step=step)
            prediction = step.prediction
        rows = tuple((row.text, row.branch) for row in self.receipt.rows)
        self._told[rows] = [act.gates for act in self.receipt.acts]
        return prediction

    def check_image(
        self, pixels: Tensor, prompts: list[str | None], again: Callable[[int], Tensor] | None = None
    ) -> Tensor:
        """Decoded images [n, 3, h, w] in [0, 1] after every guard's look and the policy's action.

        again: draws all of them once more for the n-th time, from other seeds; None where that cannot be
        """
        images = self._look(pixels, prompts)
        if images.flagged:
            self.receipt.action = self.policy.on_violation
        if self.policy.on_violation == "retry" and again is not None:
            while images.flagged and self.receipt.retries < self.policy.retries:
                self.receipt.retries += 1
                self._moment, self._now = Moment(), float("nan")
                images = images.mended(self._look(again(self.receipt.retries), prompts))
        self.receipt.verdicts = images.verdicts
        return act(images, self.policy.on_violation)

    def _look(self, pixels: Tensor, prompts: list[str | None]) -> Images:
        images = Images(pixels, prompts)
        self._call("check_image", images=images)
        return images

    def on_step_end(self, pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        """For ``callback_on_step_end``: stops a generation whose denoiser went past the guards."""
        if self.attached and self.receipt.steps == 0:
            raise GuardError(
                f"a denoising step ran past policy '{self.policy.name}': the pipeline's denoiser was replaced after "
                "attaching; detach, then attach again"
            )
        return values

    def _call(self, hook: str, **arguments: Any) -> list[Any]:
        """Call a hook on every guard. Whatever one raises stops the generation and names the guard."""
        try:
            return getattr(self._manager.hook, hook)(**arguments)
        except ConceptGuardError:
            raise
        except Exception as error:
            raise _failed(self._culprit(error), error) from error

    def _culprit(self, error: Exception) -> Guard | None:
        """The guard whose frame is the innermost one on the way to the error."""
        frames = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
        return next((f.guard for f in reversed(frames) if any(f is m for m in self.methods)), None)


def _couple(gate: Tensor, branches: Sequence[Branch | None]) -> None:
    """The official SPM inference opens the unconditional branch as far as the conditional one. gate: [rows]."""
    half = len(gate) // 2
    if len(gate) == 2 * half and "conditional" not in branches[:half] and set(branches[half:]) == {"conditional"}:
        gate[:half] = gate[half:]


def _failed(guard: Guard | None, error: Exception) -> GuardError:
    named = f"guard '{guard.label}'" if guard else "a guard"
    return GuardError(
        f"{named} failed ({type(error).__name__}: {error}); nothing was generated: mend it or take it out of the policy"
    )


def attach(target: Any, policy: str | Path | Mapping[str, Any] | Policy) -> Session:
    """Attach a policy to a classic or modular diffusers pipeline: a context manager, or call ``detach`` yourself.

    Raises PolicyError, RegistryError, ArtifactError or BaseMismatch when a guard cannot be loaded or does not fit:
    nothing is attached then. Raises SessionError when the pipeline is already guarded.
    """
    return Session(target, load_policy(policy))
