"""Hosts come in as methods do, and so does whatever else a plugin offers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from conceptguard import Host, SessionError, attach, hookimpl, host_for, plugins
from conceptguard.cli import run
from conceptguard.errors import ConceptGuardError


class Easel:
    """What nobody knows but the host below."""


class EaselHost(Host):
    about = "an Easel"
    name = "easel"

    @classmethod
    def takes(cls, target: Any) -> bool:
        return isinstance(target, (Easel, dict))

    def attach(self, session: Any) -> None:
        self.target.session = session

    def detach(self) -> None:
        del self.target.session


@contextmanager
def registered(plugin: Any) -> Iterator[None]:
    plugins.plugin_manager().register(plugin)
    try:
        yield
    finally:
        plugins.plugin_manager().unregister(plugin)


def test_a_host_of_a_plugin_is_found_and_named_in_the_error() -> None:
    with pytest.raises(SessionError, match=r"cannot guard a test_hosts\.Easel"):
        attach(Easel(), {})
    with registered(EaselHost):
        easel = Easel()
        with attach(easel, {"guards": []}) as session:
            assert easel.session is session and session.receipt.host == "easel"
        assert not vars(easel)
        with pytest.raises(SessionError, match=r"give a diffusers pipeline, .*, an Easel or in ComfyUI a"):
            host_for(object())


def test_a_host_that_does_not_say_so_is_under_one_policy_at_a_time() -> None:
    with registered(EaselHost), attach(Easel(), {"guards": []}) as session:
        refused = pytest.raises(SessionError, match="easel is under one policy at a time, and 'other' cannot be used")
        with refused, session.using({"name": "other", "guards": []}):
            pass


def test_a_host_of_a_plugin_goes_before_ours(tiny: Any) -> None:
    class Mine(EaselHost):
        takes = classmethod(lambda cls, target: target is tiny)  # type: ignore[assignment]

    assert type(host_for(tiny)).__name__ == "DiffusersHost"
    with registered(Mine):
        assert type(host_for(tiny)) is Mine


def test_a_guard_that_needs_what_a_host_has_not_is_refused() -> None:
    policy = {"guards": [{"method": "sld", "concept": {"name": "beer", "prompts": ["beer"]}}]}
    easel = Easel()
    with registered(EaselHost), pytest.raises(SessionError, match="text encoder, and easel has none"):
        attach(easel, policy)
    assert not vars(easel)


class Offers:
    """One of each kind that a plugin may offer by name."""

    class Attack:
        name: ClassVar[str] = "nagging"

    class Other:
        name: ClassVar[str] = "nagging"

    @hookimpl
    def attacks(self) -> list[Any]:
        return [self.Attack]

    @hookimpl
    def finders(self) -> list[Any]:
        return [self.Attack]

    @hookimpl
    def measures(self) -> list[Any]:
        return [self.Attack]


def test_attacks_finders_and_measures_are_offered_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with registered(Offers()):
        for kind in ("attacks", "finders", "measures"):
            assert plugins.offers(kind)["nagging"] is Offers.Attack
        assert run(["plugins", "--json", "-"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert all("nagging" in told[kind] for kind in ("attacks", "finders", "measures"))
        assert {row["host"] for row in told["hosts"]} >= {"DiffusersHost", "ComfyHost", "TransformersHost"}


def test_two_of_one_name_are_an_error() -> None:
    class Twin:
        @hookimpl
        def attacks(self) -> list[Any]:
            return [Offers.Other]

    twice = pytest.raises(ConceptGuardError, match=r"attack 'nagging' is offered by .* uninstall one")
    with registered(Offers()), registered(Twin()), twice:
        plugins.offers("attacks")
