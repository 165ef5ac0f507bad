"""The contract, of methods for plain modules: changes of whole tensors, and of low rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from emoji_classifier import bench, classifier, made

from conceptguard import Gate, LayerIndex, Method, Terms, hookimpl
from conceptguard.testing import ContractBroken, ModuleCase, check_contract, contract_checks
from conceptguard.testing.kit_guards import offered


@pytest.mark.parametrize(("method", "variant", "options"), [("damp", None, {}), ("gs_lora", "vit", {"steps": 6})])
def test_a_method_keeps_the_contract(method: str, variant: str | None, options: dict[str, Any], tmp_path: Path) -> None:
    net, one = classifier(variant), made(method, "skull", tmp_path, variant, **options)
    guard = {"method": method, "artifact": str(one.folder)}
    results = check_contract(ModuleCase(guard, lambda: net, bench().examples.inputs[:6]))
    assert len(results) == 16 and set(results.values()) == {"kept"}, results


class Idle(Method):
    """Modules: does nothing."""

    name = "idle"
    needs = "nothing"

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        return Terms(self, {}, Gate())


class Sticky(Idle):
    """Modules: leaves a hook."""

    name = "sticky"

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        layers["model.head"].register_forward_hook(lambda module, args, out: out + 1)
        return Terms(self, {}, Gate(), whole={"model.head.bias": torch.ones(60)})


@pytest.mark.parametrize(("method", "check"), [(Idle, "it_acts"), (Sticky, "no_trace")])
def test_a_method_that_breaks_it_is_found(method: type[Method], check: str) -> None:
    net = classifier()
    with offered(method):
        case = ModuleCase({"method": method.name}, lambda: net, bench().examples.inputs[:6])
        with pytest.raises(ContractBroken):
            dict(contract_checks(case))[check]()
