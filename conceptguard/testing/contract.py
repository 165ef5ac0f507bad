"""The promises by name, and the three ways to have them checked: one by one, all at once, as pytest tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import (
    acts,
    closed,
    compose,
    files,
    module_checks,
    receipts,
    rows,
    terms_of_host,
    text_checks,
    traces,
)
from .bench import Bench
from .case import Case, ContractBroken, ModuleCase, NotApplicable, TextCase
from .module_checks import ModuleBench
from .text_bench import TextBench

AnyCase = Case | TextCase | ModuleCase | Callable[[], Case | TextCase]

# (promise of the design, check); the name of a check is the name of its function.
_CHECKS: list[tuple[int, Callable[[Bench], None]]] = [
    (0, acts.it_acts),
    (1, acts.no_guard_tax),
    (2, traces.no_trace),
    (2, traces.no_trace_after_error),
    (3, closed.guard_that_raises),
    (3, closed.guard_beside_that_raises),
    (3, acts.unknown_setting_refused),
    (3, files.other_base_refused),
    (4, rows.rows_are_separate),
    (4, rows.several_images_per_prompt),
    (4, rows.negative_prompts),
    (4, rows.guidance_off),
    (4, rows.prompt_embeds),
    (6, compose.any_order),
    (6, compose.twice),
    (7, terms_of_host.bf16),
    (7, terms_of_host.fp16),
    (7, terms_of_host.lora_beside),
    (7, terms_of_host.offloaded),
    (7, terms_of_host.compiled),
    (8, files.truncated_file_refused),
    (8, files.altered_file_refused),
    (8, files.pickle_refused),
    (8, files.not_finite_refused),
    (9, receipts.receipt_is_true),
    (9, receipts.receipt_tells_all),
]
# The same for language models; what only reads files or policies is the same check.
_TEXT_CHECKS: list[tuple[int, Callable[[Any], None]]] = [
    (0, text_checks.it_acts),
    (1, text_checks.no_guard_tax),
    (2, text_checks.no_trace),
    (2, text_checks.no_trace_after_error),
    (3, text_checks.guard_that_raises),
    (3, text_checks.guard_beside_that_raises),
    (3, acts.unknown_setting_refused),
    (3, files.other_base_refused),
    (4, text_checks.rows_are_separate),
    (4, text_checks.beams_are_separate),
    (4, text_checks.another_batch),
    (6, text_checks.any_order),
    (6, text_checks.twice),
    (7, text_checks.bf16),
    (7, text_checks.static_cache),
    (7, text_checks.streaming),
    (7, text_checks.assisted),
    (8, files.truncated_file_refused),
    (8, files.altered_file_refused),
    (8, files.pickle_refused),
    (8, files.not_finite_refused),
    (9, text_checks.receipt_is_true),
    (9, text_checks.receipt_tells_all),
]
# And for plain modules.
_MODULE_CHECKS: list[tuple[int, Callable[[Any], None]]] = [
    (0, module_checks.it_acts),
    (2, module_checks.no_trace),
    (2, module_checks.no_trace_after_error),
    (3, module_checks.guard_that_raises),
    (3, module_checks.training_mode_refused),
    (3, module_checks.other_weights_refused),
    (3, acts.unknown_setting_refused),
    (3, files.other_base_refused),
    (4, module_checks.rows_are_separate),
    (6, module_checks.strength),
    (7, module_checks.bf16),
    (8, files.truncated_file_refused),
    (8, files.altered_file_refused),
    (8, files.pickle_refused),
    (8, files.not_finite_refused),
    (9, module_checks.receipt_is_true),
]
_SLOW = {"compiled", "fp16"}


def check_names(*, slow: bool = False, text: bool = False) -> list[str]:
    """The names of all checks, in the order of the promises."""
    checks = _TEXT_CHECKS if text else _CHECKS
    return [check.__name__ for _, check in checks if slow or check.__name__ not in _SLOW]


def promises(*, text: bool = False) -> dict[str, int]:
    """Every check by name, and the promise of the design that it belongs to; 0 is that a guard acts at all."""
    return {check.__name__: promise for promise, check in (_TEXT_CHECKS if text else _CHECKS)}


def contract_checks(
    case: AnyCase, *, slow: bool = False, text: bool | None = None, bench: Callable[[Any], Any] | None = None
) -> list[tuple[str, Callable[[], None]]]:
    """(name, check) for every promise. A check returns, raises ContractBroken, or raises NotApplicable.

    case: a Case or TextCase, or a function that makes one when the first check runs
    slow: with those that take a minute
    text: whether that function makes a TextCase
    bench: case -> the bench that judges it, for hosts that are called otherwise than diffusers' and transformers'
    """
    speaks = isinstance(case, TextCase) if text is None else text
    plain = isinstance(case, ModuleCase)
    benches: list[Any] = []

    def judge() -> Any:
        if not benches:
            made = case() if callable(case) else case
            kinds: dict[type, Any] = {TextCase: TextBench, ModuleCase: ModuleBench}
            kind: Any = bench or kinds.get(type(made), Bench)
            benches.append(kind(made))
        return benches[0]

    if plain:
        found = {check.__name__: check for _, check in _MODULE_CHECKS}
        names = list(found)
    else:
        found = {check.__name__: check for _, check in (_TEXT_CHECKS if speaks else _CHECKS)}
        names = check_names(slow=slow, text=speaks)
    return [(name, lambda check=found[name]: check(judge())) for name in names]  # type: ignore[misc]


def check_contract(case: AnyCase, *, slow: bool = False, text: bool | None = None) -> dict[str, str]:
    """Run every check: name -> "kept" or why it does not apply. Raises ContractBroken that names all broken ones."""
    results: dict[str, str] = {}
    broken: list[str] = []
    for name, check in contract_checks(case, slow=slow, text=text):
        try:
            check()
            results[name] = "kept"
        except NotApplicable as reason:
            results[name] = f"does not apply: {reason}"
        except ContractBroken as error:
            broken.append(f"{name}: {error}")
        except Exception as error:
            broken.append(f"{name}: {type(error).__name__}: {error}")
    if broken:
        raise ContractBroken("\n".join(broken))
    return results


def contract_tests(case: AnyCase, *, text: bool | None = None) -> Callable[..., None]:
    """A pytest test with one case per promise; slow ones carry the mark ``slow``."""
    import pytest

    checks = contract_checks(case, slow=True, text=text)
    params = [pytest.param(check, id=name, marks=[pytest.mark.slow] if name in _SLOW else []) for name, check in checks]

    @pytest.mark.parametrize("check", params)
    def test_contract(check: Any) -> None:
        try:
            check()
        except NotApplicable as reason:
            pytest.skip(str(reason))

    return test_contract
