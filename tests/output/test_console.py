"""Names from the user are printed exactly as written."""

import pytest

from rm_toolkit.output.console import console, print_table


NAMES = ["outputs/[v2]/run", "[bold]", "a[/]b", "data/:smile:/x"]


@pytest.mark.parametrize("name", NAMES)
def test_a_line_shows_a_name_as_it_is(name, capsys):
    console.print(f"wrote {name}: 12 rows")
    assert capsys.readouterr().out == f"wrote {name}: 12 rows\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_table_shows_a_name_as_it_is(name, capsys):
    print_table([name, "rows"], [["train" + name, "1"]], title=f"Table of {name}")
    printed = capsys.readouterr().out
    assert printed.startswith(f"Table of {name}") and f" {name} " in printed and f" train{name} " in printed
