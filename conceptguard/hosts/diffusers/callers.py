"""Who calls a denoiser that is under a policy: the session's own generation, or somebody else in a turn of its own."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from torch import nn

from ...errors import GuardError, SessionError
from ...runtime.turns import turn_of
from .sampler_state import SamplerState

if TYPE_CHECKING:
    from ...protocols import DrawingSession


class Callers:
    """state: the moves of what is being drawn: those of a generation, or of the own loop of the thread that calls.

    model: the denoiser
    """

    def __init__(self, model: nn.Module):
        self._model, self._turn = model, turn_of(model)
        self._loops: weakref.WeakKeyDictionary[threading.Thread, SamplerState] = weakref.WeakKeyDictionary()
        self.state = SamplerState()

    def visits(self, by: object) -> bool:
        """Whether a call is of no generation. by: the session that generates in this context, None for none"""
        return by is None or not self._turn.mine

    def admit(self, session: DrawingSession, module: nn.Module) -> bool:
        """A call of a caller's own loop, or of another pipeline on this denoiser. Waits for its turn; gives whether the
        call before was somebody else's.

        Guards act on it that act at the denoiser. Raises GuardError where one acts elsewhere, and SessionError where
        the policy was detached meanwhile.
        """
        policy = session.policy.name
        if module is not self._model:
            raise GuardError(f"a copy of a denoiser that is under policy '{policy}' was called: copy it unguarded")
        if session.has("check_image"):
            raise GuardError(
                f"policy '{policy}' looks at images, and this call of the {session.host.denoiser_name} comes from no "
                "generation whose images it would see: call the pipeline that the policy is attached to"
            )
        self._turn.begin(self)
        try:
            if not session.attached:
                raise SessionError(f"policy '{policy}' was detached while this call waited for its turn: call again")
            if not session.visit():
                return False
        except BaseException:
            self.leave()
            raise
        self.state = self._loops.setdefault(threading.current_thread(), SamplerState())
        return True

    def leave(self) -> None:
        """A call ended, or raised."""
        self._turn.end(self)

    def forget(self) -> None:
        """A generation begins or ended. A loop that waits meanwhile goes on with its own state."""
        if self.state in self._loops.values():
            self.state = SamplerState()
        self.state.clear()

    def clear(self) -> None:
        """Forget the loops, too."""
        for state in (self.state, *self._loops.values()):
            state.clear()
        self._loops.clear()
