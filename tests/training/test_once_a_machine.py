"""The first process on a machine makes the token ids; the others wait and then read them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rm_toolkit.errors import InputError
from rm_toolkit.training import training_data
from rm_toolkit.training.training_data import _once_a_machine


@pytest.fixture
def events(monkeypatch):
    """`events(first)`: what happens in one of several processes, in order."""

    def begin(first, num_processes=4):
        done = []
        state = SimpleNamespace(
            num_processes=num_processes, is_local_main_process=first, wait_for_everyone=lambda: done.append("wait")
        )
        monkeypatch.setattr(training_data, "PartialState", lambda: state)
        return done

    return begin


@pytest.mark.parametrize("first, expected", [(True, ["read", "wait"]), (False, ["wait", "read"])])
def test_the_first_process_of_a_machine_goes_first(events, first, expected):
    done = events(first)
    with _once_a_machine(True):
        done.append("read")
    assert done == expected


def test_nobody_waits_where_nothing_is_kept_or_no_other_process_is_there(events):
    done = events(False)
    with _once_a_machine(False):
        pass
    assert done == []
    done = events(True, num_processes=1)
    with _once_a_machine(True):
        pass
    assert done == []


def test_the_others_go_on_and_find_the_mistake_by_themselves(events):
    done = events(True)
    with pytest.raises(InputError, match="bad row"), _once_a_machine(True):
        raise InputError("bad row")
    assert done == ["wait"]
