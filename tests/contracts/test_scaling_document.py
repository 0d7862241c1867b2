"""The tables of docs/scaling.md are what the arithmetic gives."""

import runpy

import pytest

from tests.testkit.repository import REPOSITORY

TABLES = runpy.run_path(str(REPOSITORY / "benchmarks/print_scaling.py"))["TABLES"]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_computed(name: str) -> None:
    text = (REPOSITORY / "docs/scaling.md").read_text()
    _, _, after = text.partition(f"<!-- {name} -->\n")
    printed, _, _ = after.partition("<!-- end -->")
    assert printed.strip().splitlines() == list(TABLES[name]()), (
        "run benchmarks/print_scaling.py and put its table there"
    )
