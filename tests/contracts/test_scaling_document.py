"""The tables of docs/scaling.md are what the arithmetic gives."""

import runpy

import pytest

from tests.testkit.repository import ROOT

TABLES = runpy.run_path(str(ROOT / "benchmarks/print_scaling.py"))["TABLES"]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_computed(name: str) -> None:
    text = (ROOT / "docs/scaling.md").read_text()
    _, _, after = text.partition(f"<!-- {name} -->\n")
    printed, _, _ = after.partition("<!-- end -->")
    assert printed.strip().splitlines() == list(TABLES[name]()), (
        "run benchmarks/print_scaling.py and put its table there"
    )
