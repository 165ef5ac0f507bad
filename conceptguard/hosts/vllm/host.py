"""The vLLM host: what sessions may ask of the model that an engine runs. The engine calls them: see ``processor``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...errors import SessionError
from ..engine import EngineHost
from ..transformers.vocabulary import vocabulary_of


@dataclass(frozen=True, eq=False)
class Served:
    """A model that an engine runs. tokenizer: transformers' own; ends: ids that end a text; device: where scores are"""

    name: str
    tokenizer: Any
    vocabulary_size: int
    ends: frozenset[int]
    device: torch.device


class VllmHost(EngineHost):
    """Host adapter for a model in vLLM: of its engine's processes, and of nothing that users hold.

    A text may go on after its end where a request says so (``ignore_eos``): to the guards nothing ends it.
    """

    about = ""
    name = "vllm"

    @classmethod
    def takes(cls, target: Any) -> bool:
        """A Served; and the package's own objects, which cannot be guarded from outside."""
        return isinstance(target, Served) or type(target).__module__.split(".", 1)[0] == "vllm"

    def __init__(self, target: Any):
        super().__init__(target)
        if not isinstance(target, Served):
            raise SessionError(
                f"cannot guard a {type(target).__name__} from here: vLLM chooses tokens in processes of its own; start "
                "it with CONCEPTGUARD_ENFORCE=policy.yaml and logits_processors="
                "['conceptguard.hosts.vllm.processor:GuardProcessor'], which its server takes as --logits-processors"
            )
        self.model, self.tokenizer, self.ends = target, target.tokenizer, target.ends
        self.vocabulary_size = target.vocabulary_size
        self.vocabulary = vocabulary_of(target.tokenizer, frozenset(), target.vocabulary_size)

    def attach(self, session: Any) -> None:
        """Nothing to route: the engine asks."""

    def detach(self) -> None:
        """Nothing to undo."""

    def device_dtype(self) -> tuple[torch.device, torch.dtype]:
        """Where scores are, and in what."""
        return self.target.device, torch.float32
