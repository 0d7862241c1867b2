"""Times as people write them sort, and become milliseconds, as Python's datetime does."""

from datetime import UTC, date, datetime, time, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiprec.data.ingest.times import clock_of, parse_iso8601, parse_times

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=st.none() | ZONES)
FORMS = [
    "%Y-%m-%dT%H:%M:%S.%f",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M",
    "%Y%m%dT%H%M%S",
    "%Y%m%dT%H%M",
    "%Y-%m-%d",
    "%Y%m%d",
]


def microseconds(moment: datetime) -> int:
    utc = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (utc - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def zone_text(moment: datetime, colon: bool) -> str:
    if moment.tzinfo is None:
        return ""
    text = moment.strftime("%z")
    return f"{text[:3]}:{text[3:]}" if colon else text


@given(st.lists(st.tuples(MOMENTS, st.sampled_from(FORMS), st.booleans()), min_size=1, max_size=20))
def test_iso8601(rows: list[tuple[datetime, str, bool]]) -> None:
    texts, expected = [], []
    for moment, form, colon in rows:
        text = moment.strftime(form.replace("%Y", f"{moment.year:04}"))
        has_clock = "%H" in form
        texts.append(text + (zone_text(moment, colon) if has_clock else ""))
        read = datetime.strptime(text, form)
        expected.append(microseconds(read.replace(tzinfo=moment.tzinfo if has_clock else None)))
    key_N, readable_N, partial = parse_iso8601(pa.array(texts))
    assert readable_N.all(), texts
    assert key_N.tolist() == expected
    assert partial == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-05-06T09:11:00.137Z", datetime(2023, 5, 6, 9, 11, 0, 137_000)),
        ("2023-05-06t09:11:00z", datetime(2023, 5, 6, 9, 11)),
        ("2023-05-06T09:11:00,5+01", datetime(2023, 5, 6, 8, 11, 0, 500_000)),
        ("2023-05-06 09:11:00.123456789", datetime(2023, 5, 6, 9, 11, 0, 123_456)),
        ("2023-05-06 09:11:00 +0100", datetime(2023, 5, 6, 8, 11)),
        ("1969-12-31T23:59:59.5-00:30", datetime(1970, 1, 1, 0, 29, 59, 500_000)),
        (" 2024-02-29 ", datetime(2024, 2, 29)),
        ("2024", datetime(2024, 1, 1)),
        ("2024-07-??", datetime(2024, 7, 1)),
        ("2023-02-29", None),
        ("2023-13-01", None),
        ("2023-05-06T24:30", None),
        ("2023-05-06T09:60", None),
        ("6/5/2023", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_one_iso_text(text: str, expected: datetime | None) -> None:
    key_N, readable_N, _ = parse_iso8601(pa.array([text, "2001-01-01T00:00Z", None]))
    assert readable_N.tolist() == [expected is not None, True, False]
    assert expected is None or key_N[0] == microseconds(expected)


def test_patterns_of_strptime() -> None:
    """Arrow's strptime knows no %f; an unknown day or month is the first one, and counted."""
    texts = pa.array(["06.05.2023 09:11:00.25", "x", None])
    key_N, readable_N, _ = parse_times(texts, "%d.%m.%Y %H:%M:%S.%f")
    assert readable_N.tolist() == [True, False, False]
    assert key_N[0] == microseconds(datetime(2023, 5, 6, 9, 11, 0, 250_000))
    zoned, readable_N, _ = parse_times(pa.array(["2023-05-06 09:11+0100"]), "%Y-%m-%d %H:%M%z")
    assert readable_N.all()
    assert zoned[0] == microseconds(datetime(2023, 5, 6, 8, 11))
    dates = pa.array(["1921.??.??", "1921.03.??", "1921.03.02", "????.??.??"])
    key_N, readable_N, partial = parse_times(dates, "%Y.%m.%d")
    days = [datetime(1921, 1, 1), datetime(1921, 3, 1), datetime(1921, 3, 2)]
    assert readable_N.tolist() == [True, True, True, False]
    assert key_N[:3].tolist() == [microseconds(day) for day in days]
    assert partial == 2


@pytest.mark.parametrize(
    ("values", "time_format", "unit"),
    [
        (["-1500.5", "0", "86400.25"], "number", "s"),
        (["-1500500", "0", "86400250"], "integer", "ms"),
        ([-1_500_500_000, 0, 86_400_250_000], "number", "us"),
        ([-1500.5, 0.0, 86400.25], "number", "s"),
        (["1969-12-31T23:34:59.5Z", "1970-01-01", "1970-01-02T00:00:00.250"], "iso8601", None),
        ([timedelta(seconds=s) for s in (-1500.5, 0, 86400.25)], "datetime", None),
    ],
)
def test_milliseconds(values: list[object], time_format: str, unit: str | None) -> None:
    if time_format == "datetime":
        values = [datetime(1970, 1, 1) + value for value in values]  # type: ignore[operator]
    array = pa.array(values)
    key_N, readable_N, _ = parse_times(array, time_format)
    clock = clock_of(array.type, time_format, unit)
    assert readable_N.all()
    assert clock is not None
    assert clock.milliseconds(key_N).tolist() == [-1_500_500, 0, 86_400_250]


def test_times_without_a_date_have_an_order_and_no_clock() -> None:
    for values in ([time(1), time(2, 30)], [timedelta(hours=1), timedelta(days=2)]):
        array = pa.array(values)
        key_N, readable_N, _ = parse_times(array, "number")
        assert readable_N.all()
        assert key_N[0] < key_N[1]
        assert clock_of(array.type, "number", "s") is None
    assert clock_of(pa.int64(), "number", None) is None  # numbers of an unknown unit
    assert clock_of(pa.date32(), "number", None) is not None
    key_N, _, _ = parse_times(pa.array([date(2020, 1, 2), date(2020, 1, 1)]), "number")
    assert np.diff(key_N)[0] < 0


def test_patterns_are_read_strictly_and_fast_where_arrow_is_strict_enough() -> None:
    texts = pa.array(["31/02/2024", "29/02/2024", "1/3/2024", "29/02/2023", "01/13/2024"])
    _, readable_N, _ = parse_times(texts, "%d/%m/%Y")
    assert readable_N.tolist() == [False, True, True, False, False]
    _, readable_N, _ = parse_times(pa.array(["24-01-01", "2024-01-01"]), "%F")
    assert readable_N.tolist() == [False, True]
    key_N, readable_N, _ = parse_times(pa.array(["1700000000", "x"]), "%s")
    assert readable_N.tolist() == [True, False]
    assert key_N[0] == 1_700_000_000_000_000
    _, readable_N, partial = parse_times(pa.array(["19??.??.??", "1900.??.12"]), "%Y.%m.%d")
    assert readable_N.tolist() == [False, True]
    assert partial == 1


@pytest.mark.parametrize(("kind", "unit"), [("integer", "s"), ("number", "s"), ("integer", "ms")])
def test_a_wrong_unit_gives_no_dates_and_no_overflow(kind: str, unit: str) -> None:
    key_N, readable_N, _ = parse_times(pa.array(["1700000000000000"]), kind)  # microseconds
    clock = clock_of(pa.string(), kind, unit)
    assert readable_N.all()
    assert clock is not None
    assert not clock.is_date(key_N).any()
    right = clock_of(pa.string(), kind, "us")
    assert right is not None
    assert right.is_date(key_N).all()
    assert right.milliseconds(key_N).tolist() == [1_700_000_000_000]


@pytest.mark.parametrize(
    "wrong", ["0000-00-00", "0000-05-05", "2024-05-06T10:00+25:00", "2024-05-06T10:00+01:99"]
)
def test_iso_texts_that_are_no_date_are_unreadable(wrong: str) -> None:
    _, readable_N, _ = parse_times(pa.array([wrong, "2024-05-06T10:00+23:59"]), "iso8601")
    assert readable_N.tolist() == [False, True]


def test_a_pattern_without_a_year_has_no_date() -> None:
    assert clock_of(pa.string(), "%H:%M", None) is None
    assert clock_of(pa.string(), "%d.%m.%y %H:%M", None) is not None
