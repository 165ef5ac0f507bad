"""The guards of one policy, loaded for one host and called in the policy's order: what every kind of session shares."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import Self

from .. import plugins
from ..errors import ConceptGuardError, GuardError, SessionError
from ..making.base import bases_of
from ..receipt import Act
from ..registry import default_registry
from .using import Others

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ..host import Host, TextHost
    from ..method import Method
    from ..policy import Guard, Policy
    from ..registry import Registry
    from .claims import Claim
    from .using import Source, Using


class BaseSession:
    """Base of sessions: a context manager that detaches.

    ``methods`` are the guards in the order of the policy. One policy serves images and text: guards that have no hook
    for this kind stand aside, and the receipt says so. Raises SessionError where none of them acts here.
    """

    calls: ClassVar[frozenset[str]]  # the hooks that this kind of session calls

    def __init__(self, host: Host | TextHost, policy: Policy):
        self.policy, self.host = policy, host
        self.attached = False
        self.claim: Claim | None = None  # the mark on what is guarded, where only one session may have it
        self._lock: AbstractContextManager[Any] = threading.RLock()
        self._others: Others | None = None  # of an attached session
        self._added = False  # whether it stands beside one
        self._manager = plugins.session_manager()
        self._kinds = {name: plugins.method(name) for name in dict.fromkeys(guard.method for guard in policy.guards)}
        acts = {name: bool(plugins.hooks(kind) & self.calls) for name, kind in self._kinds.items()}
        fits = [acts[guard.method] for guard in policy.guards]
        self.aside = [guard for guard, fit in zip(policy.guards, fits) if not fit]
        if policy.guards and not any(fits):
            raise SessionError(
                f"no guard of policy '{policy.name}' acts on {host.name}: "
                f"{', '.join(dict.fromkeys(guard.method for guard in self.aside))} would stand aside; name one that "
                "does, see `conceptguard plugins`"
            )
        registry = default_registry()  # one for all guards: a remote one is asked once
        self.methods = [self._load(guard, registry) for guard, fit in zip(policy.guards, fits) if fit]
        for i, method in reversed(list(enumerate(self.methods))):
            # Pluggy calls the last registered first; a policy is read from the top.
            self._manager.register(method, name=f"{i}: {method.guard.label}")
        self._alone = {hook: sole for hook in self.calls if (sole := self._sole(hook)) is not None}

    def _load(self, guard: Guard, registry: Registry) -> Method:
        artifact = registry.load(guard.artifact, self.policy.trust, bases_of(self.host)) if guard.artifact else None
        if artifact is not None:
            self.host.check_base(artifact)
        try:
            return self._kinds[guard.method](guard, artifact, self.host)
        except ConceptGuardError:
            raise
        except Exception as error:
            raise _failed(guard, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.attached:
            self.detach()

    def using(self, policy: Source) -> AbstractContextManager[Using]:
        """Have another policy act in this one's place meanwhile, without attaching again: in this thread or task only,
        and in threads that are started with a copy of its context.

        ``with guard.using("school") as school: image = pipe(prompt).images[0]``, and then ``school.receipt``. The first
        use of a policy loads it, as ``attach`` does; later ones take microseconds. A file that was written anew is
        loaded anew; so is a policy that is not among the 32 used last. It stands alone: the attached policy's guards
        do not act as well, and ``{"guards": []}`` guards nothing.

        policy: as for ``attach``, with the same errors: nothing is chosen then. Raises SessionError where the host can
        be under one policy only, and when this session was detached.
        """
        if self._others is None:
            raise SessionError(
                f"policy '{self.policy.name}' is attached to no model by itself: ask the session that attach() gave; "
                "logits processors are made for each policy"
            )
        return self._others.using(self.host, policy)

    def detach(self) -> None:
        """Remove every hook and reference from the host. Raises SessionError when already detached."""
        with self._lock:
            self.demand_attached()
            if self._others is not None:
                self._others.close(self.policy.name)
            self.attached = False
            self._leave_host()
            self._alone.clear()
            for plugin in list(self._manager.get_plugins()):
                self._manager.unregister(plugin)
            if self.claim is not None:
                self.claim.release()

    def _leave_host(self) -> None:
        if self._added:
            self.host.drop(self)
        else:
            self.host.detach()

    def demand_attached(self) -> None:
        """Raises SessionError after ``detach``."""
        if not self.attached:
            raise SessionError(f"policy '{self.policy.name}' is not attached any more: it was detached before")

    def acts(self) -> list[Act]:
        """Fresh entries for a receipt: those of the guards at work, then those of guards that stand aside."""
        for method in self.methods:
            signed = method.artifact.signed_by or "unsigned" if method.artifact else None
            method.act = Act(method.guard.label, method.guard.strength, signed=signed)
        aside = [Act(guard.label, guard.strength, notes=[f"stands aside: not for {self.host.name}"])
                 for guard in self.aside]  # fmt: skip
        return [method.act for method in self.methods] + aside

    def has(self, hook: str) -> bool:
        """Whether any active guard implements a hook."""
        return bool(getattr(self._manager.hook, hook).get_hookimpls())

    def _call(self, hook: str, **arguments: Any) -> list[Any]:
        """Call a hook on every guard. Whatever one raises stops the generation and names the guard."""
        alone = self._alone.get(hook)
        try:
            if alone is None:
                return getattr(self._manager.hook, hook)(**arguments)  # type: ignore[no-any-return]
            found = alone(**arguments)
            return [] if found is None else [found]
        except ConceptGuardError:
            raise
        except Exception as error:
            raise _failed(self._culprit(error), error) from error

    def _sole(self, hook: str) -> Callable[..., Any] | None:
        """A hook's one function where pluggy has nothing to order: its call takes longer than some guards do."""
        caller = getattr(self._manager.hook, hook)
        found = caller.get_hookimpls()
        if len(found) != 1 or found[0].wrapper or found[0].hookwrapper or found[0].argnames != caller.spec.argnames:
            return None
        return found[0].function  # type: ignore[no-any-return]

    def _culprit(self, error: Exception) -> Guard | None:
        """The guard whose frame is the innermost one on the way to the error."""
        frames = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
        return next((f.guard for f in reversed(frames) if any(f is m for m in self.methods)), None)


def _failed(guard: Guard | None, error: Exception) -> GuardError:
    named = f"guard '{guard.label}'" if guard else "a guard"
    return GuardError(
        f"{named} failed ({type(error).__name__}: {error}); nothing was generated: mend it or take it out of the policy"
    )
