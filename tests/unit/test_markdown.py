"""Tables in Markdown, in each of their forms."""

from skiprec.observability.markdown import markdown_table, with_interval

ROWS = [["a", "1.0"], ["long", "22.0"]]


def test_numbers_are_aligned_to_the_right() -> None:
    assert markdown_table(("name", "n"), ROWS) == [
        "| name | n |",
        "| --- | ---: |",
        "| a | 1.0 |",
        "| long | 22.0 |",
    ]
    assert markdown_table(("name", "n"), ROWS, num_text_columns=2)[1] == "| --- | --- |"
    assert markdown_table(("name", "n"), ROWS, compact_rule=True)[1] == "|---|---:|"
    assert len(markdown_table(("name", "n"), [])) == 2


def test_padded_cells_have_one_width_a_column() -> None:
    assert markdown_table(("name", "n"), ROWS, padded=True) == [
        "| name |    n |",
        "| ---: | ---: |",
        "|    a |  1.0 |",
        "| long | 22.0 |",
    ]


def test_a_number_is_followed_by_its_interval() -> None:
    assert with_interval(0.5, (0.25, 0.75), "+.2f") == "+0.50 [+0.25, +0.75]"
    assert with_interval(2.0, [1.5, 2.5], ".1f", "x") == "2.0x [1.5, 2.5]"
