"""The contract, for anyone who writes a method: name it, and every promise of the design is tested against it.

With pytest, one line gives one test per promise::

    from conceptguard.testing import Case, contract_tests

    test_contract = contract_tests(Case({"method": "mine", "artifact": "my-artifact"}, opens="a cigarette"))

A method for language models is judged by a ``TextCase`` in the same way, one for plain torch modules by a
``ModuleCase``, a host of one's own by ``host_tests``.

Without pytest, ``check_contract(case)`` runs the same checks and raises ``ContractBroken`` with all that failed.
"""

from .bench import Bench, embedded_model
from .case import Case, ContractBroken, ModuleCase, NotApplicable, TextCase
from .contract import check_contract, check_names, contract_checks, contract_tests
from .hosts import host_checks, host_tests

__all__ = [
    "Bench", "Case", "ContractBroken", "ModuleCase", "NotApplicable", "TextCase",
    "check_contract", "check_names", "contract_checks", "contract_tests", "embedded_model",
    "host_checks", "host_tests",
]  # fmt: skip
