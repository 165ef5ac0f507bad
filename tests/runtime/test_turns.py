"""A turn is given back, whatever becomes of the thread that has it."""

from __future__ import annotations

import gc
import os
import threading
import time
from typing import Any

import pytest

from conceptguard.errors import SessionError
from conceptguard.runtime import turns
from conceptguard.runtime.turns import Turn, turn_of


class Shared:
    """What several sessions have in common."""


def in_thread(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_one_turn_an_object_which_it_does_not_keep() -> None:
    shared = Shared()
    assert turn_of(shared) is turn_of(shared) and turn_of(shared) is not turn_of(Shared())
    count = len(turns._of)
    del shared
    gc.collect()
    assert len(turns._of) < count


def test_first_come_first_served() -> None:
    """Who gives a turn back and wants it again at once stands behind those that waited."""
    turn, order = Turn(), []

    def work() -> None:
        for _ in range(3):
            with turn, turn:  # its thread may take it again
                order.append(threading.current_thread().name)
                time.sleep(0.005)

    with turn:
        threads = [in_thread(work) for _ in range(3)]
        while len(turn._waiting) < 3:
            time.sleep(0.001)
    for thread in threads:
        thread.join(10)
    assert len(order) == 9 and len({*order[:3]}) == 3


def test_a_call_that_never_ended() -> None:
    """It raised where nobody could tell: its thread goes on, and another one does when the first is gone."""
    turn, me = Turn(), object()
    turn.begin(me)
    turn.begin(me)  # the next call
    turn.end(me)
    assert not turn.mine
    turn.begin(me)
    with turn:
        pass
    assert not turn.mine
    in_thread(lambda: turn.begin(me)).join(10)
    with turn:
        assert turn.mine


def test_a_call_that_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LOST", 0.5)
    turn, done = Turn(), threading.Event()
    begun = threading.Event()

    def work() -> None:
        turn.begin(turn)
        begun.set()
        done.wait(30)

    thread = in_thread(work)
    begun.wait(10)
    with pytest.raises(SessionError, match="has not come back for 0 seconds"), turn:
        pass
    done.set()
    thread.join(10)
    with turn:
        assert turn.mine


def test_several_ask_for_one_call() -> None:
    turn, one, other = Turn(), object(), object()
    turn.begin(one)
    turn.begin(other)
    turn.end(one)
    assert turn.mine
    turn.end(other)
    turn.end(other)  # after an exception it may be told twice
    assert not turn.mine


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_fork_while_another_thread_has_its_turn() -> None:
    turn, begun, done = turn_of(shared := Shared()), threading.Event(), threading.Event()

    def work() -> None:
        with turn:
            begun.set()
            done.wait(60)

    thread = in_thread(work)
    begun.wait(10)
    if not (child := os.fork()):
        with turn_of(shared):
            os._exit(7)
    deadline = time.monotonic() + 30
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.01)
    done.set()
    thread.join(10)
    if not ended[0]:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ended[1]) == 7 and ended[0]
