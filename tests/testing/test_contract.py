"""The contract, run for the shipped methods and the example; and against methods that break it on purpose."""

from __future__ import annotations

import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from broken_methods import CAUGHT_BY, Good
from random_artifacts import membrane, random_edit, random_terms, write_terms
from tiny import clip_tokenizer, tiny_sd

from conceptguard import Method
from conceptguard.testing import (
    Case,
    ContractBroken,
    NotApplicable,
    check_contract,
    contract_checks,
    contract_tests,
    embedded_model,
)
from conceptguard.testing.kit_guards import offered

_FOLDER = tempfile.TemporaryDirectory()
_OPENS = "a cigarette"


def _spm() -> Case:
    return Case(membrane(Path(_FOLDER.name) / "spm", embedded_model()), opens=_OPENS)


@cache
def _pipeline() -> Any:
    """One for the cases of shipped methods: checks leave it as it was, or fail."""
    return tiny_sd(clip_tokenizer())


def _lora() -> Case:
    """Linear and convolution layers of the UNet, and layers of the text encoder."""
    pipe = _pipeline()
    terms = random_terms(pipe, rank=4, names=("attn2.to_k", "attn2.to_v", "resnets.0.conv1"))
    terms |= random_terms(pipe, rank=4, component="text_encoder", names=("q_proj", "fc1"), size=0.2)
    folder = write_terms(Path(_FOLDER.name) / "lora", pipe, terms, method="lora")
    return Case({"method": "lora", "artifact": str(folder)}, opens=_OPENS, load=_pipeline)


def _few_shot() -> Case:
    """Layers of the text encoder alone, as advunlearn's are: the two act alike."""
    pipe = _pipeline()
    terms = random_terms(pipe, rank=4, component="text_encoder", names=("fc1", "fc2", "1.self_attn"), size=0.2)
    folder = write_terms(Path(_FOLDER.name) / "few_shot", pipe, terms, method="few_shot")
    return Case({"method": "few_shot", "artifact": str(folder)}, opens=_OPENS, load=_pipeline)


def _trained(method: str) -> Case:
    """Layers of the denoiser that were trained, beside those that read text."""
    pipe = _pipeline()
    folder = write_terms(Path(_FOLDER.name) / method, pipe, random_terms(pipe, rank=4, names=("attn2",)), method=method)
    return Case({"method": method, "artifact": str(folder)}, opens=_OPENS, load=_pipeline)


def _uce() -> Case:
    return Case(random_edit(Path(_FOLDER.name) / "uce", _pipeline()), opens=_OPENS, load=_pipeline)


def _trce() -> Case:
    """Both stages: terms, and a steering that calls the denoiser itself."""
    guard = random_edit(Path(_FOLDER.name) / "trce", _pipeline(), method="trce")
    return Case({**guard, "early": 1.0}, opens=_OPENS, load=_pipeline)


test_spm = contract_tests(_spm)
test_lora = contract_tests(_lora)
test_esd = contract_tests(partial(_trained, "esd"))
test_co_erasing = contract_tests(partial(_trained, "co_erasing"))
test_all_but_one = contract_tests(partial(_trained, "all_but_one"))
test_salun = contract_tests(partial(_trained, "salun"))
test_sfd = contract_tests(partial(_trained, "sfd"))
test_doco = contract_tests(partial(_trained, "doco"))
test_realera = contract_tests(partial(_trained, "realera"))
test_uce = contract_tests(_uce)
test_few_shot = contract_tests(_few_shot)


# Steering cannot work without classifier-free guidance and says so; the kit's check wants a picture there.
@pytest.mark.parametrize("check", [pytest.param(c, id=n) for n, c in contract_checks(_trce) if n != "guidance_off"])
def test_trce_of_both_stages(check: Any) -> None:
    try:
        check()
    except NotApplicable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("method", CAUGHT_BY, ids=lambda method: method.name)
def test_broken_methods_are_caught(method: type[Method], tiny: Any, tmp_path: Path) -> None:
    guard: dict[str, Any] = {"method": method.name}
    if method.needs == "artifact":
        guard["artifact"] = str(write_terms(tmp_path, tiny, random_terms(tiny, names=("attn2.to_v",))))
    kept = tiny.unet.state_dict()["mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"].clone()
    layer = tiny.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v
    with offered(method):
        checks = dict(contract_checks(Case(guard, opens=_OPENS, load=lambda: tiny)))
        try:
            with pytest.raises(ContractBroken):
                checks[CAUGHT_BY[method]]()
        finally:  # the broken ones leave their traces: away with them
            layer._forward_hooks.clear()
            vars(layer).pop("forward", None)
            layer.weight.data.copy_(kept)
            vars(method).get("alive", []).clear()


@pytest.mark.parametrize("check", sorted(set(CAUGHT_BY.values()) - {"truncated_file_refused"}))
def test_what_catches_them_passes_the_same_method_unbroken(check: str, tiny: Any) -> None:
    with offered(Good):
        dict(contract_checks(Case({"method": "good"}, opens=_OPENS, load=lambda: tiny)))[check]()


def test_the_whole_kit_at_once_names_every_broken_promise(tiny: Any) -> None:
    from broken_methods import DoesNothing

    with offered(DoesNothing), pytest.raises(ContractBroken) as caught:
        check_contract(Case({"method": "does-nothing"}, opens=_OPENS, load=lambda: tiny))
    names = {line.split(":")[0] for line in str(caught.value).splitlines()}
    assert {"it_acts", "rows_are_separate", "any_order", "bf16"} <= names
    assert not {"no_trace", "no_guard_tax", "guard_that_raises"} & names
