"""A session: one policy attached to one host object, from attach to detach."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import GuardError, Refused, SessionError
from ..generation.conditioning import Branch, Encoded, Prompts
from ..generation.denoising import Conditions, Drawn, Moment, Step
from ..generation.images import Images
from ..generation.unlisted import is_read
from ..hookspecs import GENERATION, TEXT
from ..host import Host
from ..plugins import hooks
from ..policy import Policy
from ..receipt import Act, Receipt, Row
from ..records.listeners import reported
from ..runtime.bank import running
from ..runtime.banks import Banks
from ..runtime.choice import choosing
from ..runtime.encodings import lengths
from ..runtime.gates import GateBank
from ..runtime.once import meanwhile
from ..runtime.patched import Patch
from ..runtime.uncollected import uncollected
from .actions import act
from .base import BaseSession
from .generations import Loops, State, publish, published, restore, state_of
from .patches import scale_terms
from .steering import away_from
from .using import Others

if TYPE_CHECKING:
    from ..method import Method

_OF_A_GENERATION = (
    "_guidance", "_moment", "_now", "_branches", "_open", "_told", "_receipt", "_inside", "_cut", "_found",
)  # fmt: skip


class Session(BaseSession):
    """The guards of one policy at work on one host. Made by ``attach``; a context manager that detaches.

    ``methods`` are the guards in the order of the policy.

    beside: another session is attached to the host, and this one acts where it is chosen
    """

    host: Host
    calls = GENERATION - TEXT

    def __init__(self, host: Host, policy: Policy, beside: bool = False):
        super().__init__(host, policy)
        self._lock = host.turn()
        self._added, self._others = beside, None if beside else Others(self._lock, self._another)
        self._loops, self._running = Loops(), 0
        self._gate_banks: dict[str, GateBank] = {}
        self._guidance: float | None = None
        self._moment, self._now, self._inside = Moment(), float("nan"), False
        self._first = 0  # which step of a generation its first call is
        self._found: dict[int, str] = {}
        self._branches: list[Branch | None] = []
        self._open: list[Act] = []
        self._beside: dict[str, dict[int, list[str]]] = {}
        self._read_with: dict[int, set[str]] = {}
        self._told: dict[tuple[tuple[str | None, str | None], ...], list[list[float]]] = {}
        self.layers = self.host.layers()
        self._measure_concepts()
        place = {id(method): i for i, method in enumerate(self.methods)}
        found = [(place[id(terms.owner)], terms) for terms in self._call("cross_attention", layers=self.layers)]
        self._terms = sorted(found, key=lambda pair: pair[0])
        self.banks = Banks(self.layers, [terms for _, terms in self._terms], self)
        try:
            self.gate_bank(self.host.denoiser_name, self.host.read)
            self.start()
            if beside:
                self.host.add(self)
            else:
                self.host.attach(self)
        except BaseException:
            self.banks.detach()
            raise
        self.attached = True

    def _measure_concepts(self) -> None:
        """Every concept's prompts go through the tokenizer together, since each gate asks how long its own are."""
        concepts = [
            method.artifact.manifest.concept
            if method.guard.concept is None and method.artifact
            else method.guard.concept
            for method in self.methods
            if method.guard.gate == "prompt" and "cross_attention" in hooks(type(method))
        ]
        if len(prompts := [prompt for concept in concepts if concept for prompt in concept.prompts]) > 1:
            lengths(self.host, prompts)

    def _another(self, policy: Policy) -> Session:
        """A session beside this one. No session's terms act on what its gates are measured by, nor a running call's
        options."""
        self.demand_attached()
        token = running.set(self.host)
        try:
            with self._lock, meanwhile(), uncollected(), choosing(self.host, None):
                return Session(self.host, policy, beside=True)
        finally:
            running.reset(token)

    @property
    def receipt(self) -> Receipt:
        """The record of the last generation of the thread or task that asks; where it had none, of the last one."""
        return published(self) or self._receipt

    def detach(self) -> None:
        """Remove every hook and reference from the host, after a generation of another thread.

        Raises SessionError when already detached, and in a callback of a generation that still runs.
        """
        with self._lock:
            if self._running and running.get() is self:
                raise SessionError(
                    f"policy '{self.policy.name}' cannot be detached in the middle of its own generation: raise an "
                    "exception to stop that, and detach afterwards"
                )
            super().detach()
            self.banks.detach()
            self._loops = Loops()

    # What the host calls, in the order of one generation.

    def run(self, generate: Callable[[], Any], guidance_scale: float | None = None) -> Any:
        """One whole generation under this session: one at a time, closed again afterwards whatever happens.

        One that begins inside of another, from a callback, sets that one aside. Raises SessionError where the policy
        was detached while this waited for its turn.
        """
        with self._lock, meanwhile():
            self.demand_attached()
            outer = self._state() if self._running else None
            self._loops.leave(self._state)
            token = running.set(self)
            started = time.perf_counter()
            self.start(guidance_scale)
            publish(self, self._receipt)
            self._running += 1
            own = self._receipt
            with reported(self.host, lambda: own):
                try:
                    return generate()
                finally:
                    self._running -= 1
                    running.reset(token)
                    self.close()
                    self._tell()
                    own.seconds = time.perf_counter() - started
                    if outer is not None:
                        restore(outer)

    def probe(self, predict: Callable[[], Any], step: int = 0) -> Any:
        """One call of the denoiser as in step ``step`` of a generation, from without: guards act, gradients pass, and
        afterwards nobody remembers it. What guards gather from step to step (a momentum) begins with nothing.

        The caller composes predictions as it likes, so that every prompt is guarded. Raises as ``run``.
        """
        with self._lock:
            kept = self._state()
            self._first = step
            try:
                return self.run(predict)
            finally:
                self._first = 0
                restore(kept)

    def visit(self) -> bool:
        """A denoiser call of a caller's own loop, in its turn. Gives whether the call before was somebody else's."""
        return self._loops.enter(self._state, self._begin_loop)

    def _begin_loop(self) -> None:
        if self._receipt.steps or published(self) is self._receipt:
            self.start()

    def _state(self) -> State:
        return state_of(self, _OF_A_GENERATION, self.methods)

    def start(self, guidance_scale: float | None = None) -> None:
        """A fresh receipt. guidance_scale: None where nobody says, as in a caller's own loop."""
        self._guidance, self._open, self._told, self._cut = guidance_scale, [], {}, False
        self._found = {}
        self._moment, self._now = Moment(), float("nan")
        device, dtype = self.host.device_dtype()
        self._receipt = Receipt(self.policy.name, self.host.name, str(device), str(dtype).removeprefix("torch."))
        self._receipt.acts = self.acts()
        for i, terms in self._terms:
            self._receipt.acts[i].layers = len(terms.factors)
            self._receipt.acts[i].notes += [note for notes in self._beside.values() for note in notes.get(i, ())]

    def close(self) -> None:
        """Close every gate."""
        self._open, self._guidance = [], None
        for prefix in self.banks.prefixes():
            self.banks.set(prefix, None)

    def _tell(self) -> None:
        """Where a step is several calls of the denoiser, the receipt tells of the rows of all of them."""
        if len(self._told) > 1:
            self._receipt.rows = [Row(text, branch) for rows in self._told for text, branch in rows]
            for i, act in enumerate(self._receipt.acts):
                act.gates = [gate for gates in self._told.values() for gate in gates[i]]

    @property
    def methods_with_terms(self) -> list[Method]:
        """The guards that have a gate, in the order of a gate bank's columns."""
        return [self.methods[i] for i, _ in self._terms]

    def pushed(self) -> list[int]:
        """Rows on which a guard acts in the denoiser itself, by terms or predictions, and not by what that is given."""
        acting = [
            self.methods[i].act
            for i, terms in self._terms
            if terms.factors or hooks(type(self.methods[i])) & {"condition", "predict_noise"} == {"predict_noise"}
        ]
        return sorted({row for act in acting for row, gate in enumerate(act.gates) if gate})

    @property
    def steps(self) -> int:
        """How many calls of the denoiser the guards of the running generation have seen."""
        return self._receipt.steps

    @property
    def guidance_scale(self) -> float | None:
        """Of the running pipeline call; None outside of one."""
        return self._guidance

    def patched(self, prefix: str, patches: Mapping[str, Callable[[], Patch]]) -> None:
        """Others patch weights of one component: by the names of layers, what they add there. All of it, or {} where
        they do not any more. Terms are scaled as the weights are that they stand beside, and the receipt says so.

        Raises GuardError where a guard's terms are taken back, or stand beside another weight than their own.
        """
        for i, said in self._beside.pop(prefix, {}).items():
            act = self._receipt.acts[i]
            act.notes = [note for note in act.notes if note not in said]
        said_of = scale_terms(self.banks, prefix, patches, [method.guard.label for method in self.methods_with_terms])
        self._beside[prefix] = {self._terms[column][0]: said for column, said in said_of.items()}
        for i, said in self._beside[prefix].items():
            self._receipt.acts[i].notes += said

    def guide(self, scale: float) -> None:
        """Guidance of the running call goes on with this scale, 1 for none."""
        self._cut = self._cut or (self._guidance is not None and scale <= 1 < self._guidance)
        self._guidance = scale

    def encode_prompt(self, prompts: Prompts) -> None:
        """Let every guard see every condition of the call."""
        self._call("encode_prompt", prompts=prompts)

    def gate_bank(self, prefix: str, encode: Callable[[list[str]], Any]) -> GateBank:
        """The gates of all guards as one component's encoder sees them, built on first use."""
        if prefix not in self._gate_banks:
            gates = [terms.gate for _, terms in self._terms]
            cached = prefix == self.host.denoiser_name and any(gate.prompts for gate in gates)
            known = self.host.encoding_cache() if cached else None
            self._gate_banks[prefix] = GateBank(gates, encode, known)
        return self._gate_banks[prefix]

    def read_with(self, prefix: str, gates: Tensor) -> None:
        """A text encoder reads with its own terms so far open, [rows, guards], by what is read without them. The
        denoiser's gates go by what comes of it, which may say nothing of it any more."""
        for i, gate in zip((i for i, _ in self._terms), gates.any(dim=0).tolist()):
            if gate:
                self._read_with.setdefault(i, set()).add(prefix)

    def open_gates(
        self,
        prefix: str,
        embeds: Tensor,
        ids: Sequence[Sequence[int] | None],
        texts: Sequence[str | None],
        branches: Sequence[Branch | None],
    ) -> None:
        """New conditions reached a component: embeds [rows, tokens, width]. Sets the gates of every row."""
        if self.policy.unread == "refuse" and not all(map(is_read, ids)):
            row = next(i for i, own in enumerate(ids) if not is_read(own))
            if ids[row] is not None:
                raise Refused(
                    f"row {row} has words that were learnt (textual inversion): what they ask for, policy "
                    f"'{self.policy.name}' cannot read; leave them out of {texts[row]!r}"
                )
            raise Refused(
                f"row {row} is an embedding whose text policy '{self.policy.name}' has not seen: pass the text, or "
                "encode it with this pipeline while the policy is attached"
            )
        self._branches = list(branches)
        self.banks.traced = self.host.compiled()
        gates = self._gate_banks[prefix](embeds, ids)
        for column, (i, terms) in enumerate(self._terms):
            if terms.in_encoders and any(gate and own is None for gate, own in zip(gates[:, column], ids)):
                raise Refused(
                    f"guard '{self.methods[i].guard.label}' acts in the text encoder, and an embedding that asks for "
                    "its concept was not encoded under it: pass the text, or encode it with this pipeline while the "
                    "policy is attached"
                )
            if terms.coupled:
                _couple(gates[:, column], branches)
            if terms.towards:
                # A gate that is always open says nothing of what is asked for.
                asked = gates[:, column] if terms.gate.prompts else torch.zeros(len(branches))
                self.methods[i].asked = asked.tolist()
                towards = Drawn.of(branches, self._guidance).towards
                gates[[row for row in range(len(branches)) if row not in towards], column] = 0
        self.banks.set(prefix, gates)
        self._receipt.rows = [Row(text, branch) for text, branch in zip(texts, branches)]
        self._open = []
        for (i, terms), column in zip(self._terms, gates.T.tolist()):
            self._receipt.acts[i].gates = column
            if any(column) and terms.factors:
                self._open.append(self._receipt.acts[i])
            elif i in self._read_with:
                where = ", ".join(sorted(self._read_with[i]))
                self._receipt.acts[i].notes.append(f"open in {where} alone, by what is read without the guard")
        self._read_with = {}

    def before_denoise(
        self, timestep: Any, conditions: Callable[[float | None, Moment], Conditions]
    ) -> Conditions | None:
        """A denoiser call begins. Gives what guards made of its conditions, None where no guard reads them."""
        self.banks.start(self.host.denoiser_name)
        self._inside = True
        publish(self, self._receipt)  # a generation in a callback may have been the last
        if not (self.has("condition") or self.has("predict_noise")):
            return None
        self._count(float(timestep.max() if isinstance(timestep, Tensor) else timestep))
        if not self.has("condition"):
            return None
        given = conditions(self._guidance, self._moment)
        given.cut = self._cut
        self._call("condition", conditions=given)
        return given

    def _count(self, now: float) -> None:
        """Which call of which step this is. A caller's own loop that goes back to more noise begins anew."""
        last, before, call = self._moment, self._now, self._receipt.steps
        if before != before or (now > before and self._guidance is None):
            self._moment = Moment(call, self._first)
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
        if not self._inside:
            raise GuardError("a denoiser call began past the guards, whose hook was removed: detach, then attach again")
        self._inside = False
        self.banks.verify(self.host.denoiser_name, resting)
        index = self._receipt.steps
        self._receipt.steps += 1
        for opened in self._open:
            opened.steps.append(index)
        if self.has("predict_noise"):
            step = Step(
                index, timestep, latents, prediction, self._branches, self._guidance, self._moment, denoise, separate,
                self._cut,
            )  # fmt: skip
            self._call("predict_noise", step=step)
            prediction = step.prediction
        rows = tuple((row.text, row.branch) for row in self._receipt.rows)
        self._told[rows] = [act.gates for act in self._receipt.acts]
        return prediction

    def check_image(
        self, pixels: Tensor, prompts: list[str | None], again: Callable[[int], Tensor] | None = None
    ) -> Tensor:
        """Decoded images [n, 3, h, w] in [0, 1] after every guard's look and the policy's action.

        again: draws all of them once more for the n-th time, from other seeds; None where that cannot be
        """
        publish(self, self._receipt)
        images = self._look(pixels, prompts)
        if images.flagged:
            self._receipt.action = self.policy.on_violation
        if self.policy.on_violation == "retry" and again is not None:
            while images.flagged and self._receipt.retries < self.policy.retries:
                self._receipt.retries += 1
                self._moment, self._now = Moment(), float("nan")
                self._found = away_from(images) if self.policy.steer else {}
                images = images.mended(self._look(again(self._receipt.retries), prompts))
        self._receipt.verdicts = images.verdicts
        return act(images, self.policy.on_violation)

    def steered(self) -> dict[int, str]:
        """Asked by a host that draws flagged images again, and can draw them away from words: from which, by image.

        Empty where the policy does not want it. The receipt says that it was asked.
        """
        told = "; ".join(f"image {image} away from {words!r}" for image, words in sorted(self._found.items()))
        for method in self.methods if told else ():
            if "check_image" in hooks(type(method)):
                method.act.notes.append(f"drawn again, {told}")
        return self._found

    def _look(self, pixels: Tensor, prompts: list[str | None]) -> Images:
        images = Images(pixels, prompts)
        images.demand_visible()
        self._call("check_image", images=images)
        return images

    def on_step_end(self, pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        """For ``callback_on_step_end``: stops a generation whose denoiser went past the guards."""
        if self.attached and self._receipt.steps == 0:
            raise GuardError(
                f"a denoising step ran past policy '{self.policy.name}': the pipeline's denoiser was replaced after "
                "attaching; detach, then attach again"
            )
        return values


def _couple(gate: Tensor, branches: Sequence[Branch | None]) -> None:
    """The official SPM inference opens the unconditional branch as far as the conditional one. gate: [rows]."""
    half = len(gate) // 2
    if len(gate) == 2 * half and "conditional" not in branches[:half] and set(branches[half:]) == {"conditional"}:
        gate[:half] = gate[half:]
