"""How an exception of a library is reported: one line of its message, chosen by one rule."""

import pytest

from rm_toolkit.errors import class_and_line, first_line, last_line


@pytest.mark.parametrize(
    ("error", "first", "last", "named"),
    [
        (OSError("no route"), "no route", "no route", "OSError: no route"),
        (ValueError("\n  one \n two\n\n"), "one", "two", "ValueError: one"),
        (RuntimeError(), "RuntimeError", "RuntimeError", "RuntimeError"),
        (KeyError(""), "''", "''", "KeyError: ''"),
    ],
)
def test_one_line_of_an_error(error, first, last, named):
    assert (first_line(error), last_line(error), class_and_line(error)) == (first, last, named)


def test_the_class_does_not_count_in_the_width():
    assert class_and_line(ValueError("abcdef"), 3) == "ValueError: abc"
