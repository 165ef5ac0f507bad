"""Which of several sessions acts on one host, in a thread or task: where nothing was chosen, the attached one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from ..errors import SessionError


class Choice:
    """session: the one that acts, None for none, as while another one is being made; receipt: of the last generation
    under it, in whichever thread or task this choice holds."""

    def __init__(self, session: Any):
        self.session = session
        self.receipt: Any = None


# By the id of the host, which whoever chooses holds on to. Never changed in place: tasks begin with a copy of the
# context, which is no copy of what is in it.
_choices: ContextVar[Mapping[int, Choice]] = ContextVar("conceptguard_choices", default=MappingProxyType({}))


def choice(host: object) -> Choice | None:
    """What was chosen for a host here; None where nothing was."""
    return _choices.get().get(id(host))


@contextmanager
def choosing(host: object, session: Any) -> Iterator[Choice]:
    """Meanwhile, in this thread or task and in what it starts with a copy of its context, a session acts on a host.

    Raises SessionError at the end where it was left in another context than it was entered in.
    """
    made = Choice(session)
    token = _choices.set(MappingProxyType({**_choices.get(), id(host): made}))
    try:
        yield made
    finally:
        try:
            _choices.reset(token)
        except ValueError:
            raise SessionError(
                "using(policy) was left in another context than it was entered in, as a dependency that yields is: "
                "what was generated in between may have been under the attached policy; use it in the function that "
                "calls the model"
            ) from None
