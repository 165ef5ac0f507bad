"""Every promise of the contract, one test each."""

from conceptguard.testing import Case, contract_tests

test_wordlist = contract_tests(
    Case({"method": "wordlist", "words": ["cigarette"], "replacement": "flower"}, opens="a cigarette")
)
