"""A policy as vLLM's logits processor: ``--logits-processors conceptguard.hosts.vllm.processor:GuardProcessor``.

vLLM has two model runners, with a logits processor of its own each: the second one is the default on GPUs, the first
one runs where Triton does not. One class serves both.

It is named at start, never found by an entry point: under speculative decoding the first runner leaves out, with no
more than a warning, what it has found that way.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import ConceptGuardError, GuardError, PolicyError, SessionError
from .engine import demand_promises, served
from .host import VllmHost
from .policies import NAMED, policies
from .requests import Requests, Saying

try:
    from vllm.v1.sample.logits_processor import LogitsProcessor as First
    from vllm.v1.sample.logits_processor import process_dict_updates
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as Second
except ImportError as error:
    raise SessionError(
        f"this vLLM has other logits processors than those that conceptguard knows ({error}): take 0.32 or 0.33"
    ) from error

if TYPE_CHECKING:
    from vllm import SamplingParams

_policies = cache(policies)
with suppress(ConceptGuardError):  # of which the engine tells when it starts
    _policies()  # read now, in every process: what comes into the folder later, the engine does not know
_SHOWN = ("logprobs", "prompt_logprobs", "logprob_token_ids", "prompt_logprob_token_ids")


class GuardProcessor(First, Second):  # type: ignore[misc]
    """The guards of a server's policies, asked about every token of every request.

    where: the first runner's device, or the second's ``LogitsProcRequestState``. Raises SessionError for an
    engine in which guards could not keep their promises, and what ``attach`` raises for a policy that cannot act.
    """

    def __init__(self, vllm_config: Any, where: Any, is_pin_memory: bool = False):
        demand_promises(vllm_config)
        self._state = None if isinstance(where, torch.device) else where
        device = where if self._state is None else where.device
        self._requests = Requests(VllmHost(served(vllm_config, device)), _policies())
        self._saying: dict[int, Saying] = {}  # by places: rows of the first runner's batch, slots of the second's
        self._answers: dict[Saying, list[int]] = {}  # the first runner's own lists, which it goes on to fill

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raises ValueError, which the server tells its client, for a policy that it does not offer, and for what would
        show or say tokens that guards have closed."""
        try:
            _policies().of(_named(sampling_params))
        except PolicyError as error:
            raise ValueError(str(error)) from None
        if shown := next((name for name in _SHOWN if getattr(sampling_params, name, None)), None):
            raise ValueError(f"{shown} would show what guards have closed (beam search asks for it, too): leave it out")
        if getattr(sampling_params, "thinking_token_budget", None) is not None:
            raise ValueError("thinking_token_budget says a token whatever guards have closed: leave it out")

    # The first runner.

    def is_argmax_invariant(self) -> bool:
        """No: a guard closes the likeliest token."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Requests came, went, or changed places."""
        before = list(self._saying.values())
        process_dict_updates(self._saying, batch_update, self._came)
        here = set(map(id, self._saying.values()))
        for saying in before:
            if id(saying) not in here:
                self._answers.pop(saying)
                self._requests.end(saying)

    def _came(self, params: SamplingParams, prompt: list[int] | None, answer: list[int]) -> Saying:
        if prompt is None:
            raise GuardError("a prompt came as embeddings, which no guard can read")
        saying = self._requests.begin(_named(params))
        saying.begin = len(prompt)
        saying.read(prompt)
        self._answers[saying] = answer
        return saying

    # The second.

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Another request has this slot."""
        if (before := self._saying.pop(req_idx, None)) is not None:
            self._requests.end(before)
        self._saying[req_idx] = self._requests.begin(_named(sampling_params))
        return True

    # Both.

    def apply(self, logits: Tensor, ctx: Any = None) -> Tensor:
        """The scores of the next tokens, float32 [rows, vocabulary], changed in place. ctx: the second runner's layout
        of this step."""
        self._requests.close(logits)
        for row, saying in self._in_rows(len(logits)) if ctx is None else self._in_slots(ctx):
            saying.settle(logits[row : row + 1])
        return logits

    def _in_rows(self, rows: int) -> list[tuple[int, Saying]]:
        for saying in self._saying.values():
            said = len(saying) - saying.begin
            saying.add(self._answers[saying][said:])
        found = sorted(self._saying.items())
        if [row for row, _ in found] != [*range(rows)]:
            raise GuardError(f"vLLM has {rows} rows of scores and told of {len(found)} requests: nothing is said")
        return found

    def _in_slots(self, ctx: Any) -> list[tuple[int, Saying]]:
        state = self._state
        assert state is not None
        found = []
        told = torch.stack([each.long() for each in (ctx.expanded_idx_mapping, ctx.pos, ctx.input_ids)], 1).tolist()
        for row, (slot, at, token) in enumerate(told):
            if at + 1 < state.prefill_len.np[slot]:
                continue  # a prompt that comes in parts: what is drawn from these scores is thrown away
            saying = self._saying[slot]
            saying.begin = int(state.prompt_len.np[slot])
            if len(saying) == at:
                saying.add([token])
            else:
                saying.read(state.all_token_ids.gpu[slot, : at + 1].tolist())
            found.append((row, saying))
        return found


def _named(params: SamplingParams) -> object:
    return (params.extra_args or {}).get(NAMED)
