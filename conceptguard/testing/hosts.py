"""The promises for a host of one's own: two guards of the kit, one that rewrites prompts and one that looks at
pictures, are judged on it like any method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .case import Case, NotApplicable
from .contract import contract_checks
from .kit_guards import WORD, Flagging, Replacing, offered

if TYPE_CHECKING:
    from torch import Tensor

    from ..method import Method

Check = Callable[[], None]


def host_checks(
    load: Callable[[], Any],
    draw: Callable[[Any, Sequence[str], Sequence[int]], Tensor],
    methods: Sequence[type[Method]] = (Replacing, Flagging),
) -> Iterator[tuple[str, Check]]:
    """(name, check) for every promise and each of the kit's guards; see ``contract_checks``.

    load: gives what a policy is attached to; draw: (that, prompts, seeds) -> pictures [n, 3, height, width] in [0, 1]
    """
    for method in methods:
        case = Case({"method": method.name}, opens=f"a {WORD}", load=load, draw=draw, unguided=None)
        for name, check in contract_checks(case):
            yield f"{method.name}-{name}", lambda check=check, method=method: _offered(method, check)  # type: ignore[misc]


def _offered(method: type[Method], check: Check) -> None:
    with offered(method):
        check()


def host_tests(
    load: Callable[[], Any], draw: Callable[[Any, Sequence[str], Sequence[int]], Tensor]
) -> Callable[..., None]:
    """A pytest test with one case per promise and guard; see ``host_checks``."""
    import pytest

    @pytest.mark.parametrize("check", [pytest.param(check, id=name) for name, check in host_checks(load, draw)])
    def test_contract(check: Check) -> None:
        try:
            check()
        except NotApplicable as reason:
            pytest.skip(str(reason))

    return test_contract
