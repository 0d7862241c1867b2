"""Reads times into whole numbers that sort as the times do, and turns those into milliseconds.

A value that is not of the wanted format is unreadable; its meaning is never guessed. A time without
a zone is read as UTC.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skiprec.data.ingest.parsing import convert_each, parse_integers, parse_numbers

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]

UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}  # units in a second
# A float64 holds every whole number below 2^53 exactly; 2^53 and 2^53 + 1 are the same float64.
_LARGEST_EXACT = float(2**53)
_UNKNOWN = "??"  # stands for an unknown day or month, as in 1921.??.??
_YEARS_1_TO_9999 = (-62_135_596_800_000, 253_402_300_799_999)  # in milliseconds since 1970

# What Arrow's strptime knows and Python's does not.
_SHORT_FOR = {"%F": "%Y-%m-%d", "%T": "%H:%M:%S", "%R": "%H:%M", "%D": "%m/%d/%y", "%e": "%d"}

_DATE = r"(?P<year>\d{4})(?:-(?P<month>\d\d|\?\?)(?:-(?P<day>\d\d|\?\?))?)?"
_CLOCK = r"(?P<hour>\d\d)(?::(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?)?"
_ZONE = r"(?P<zone>[Zz]|[+-]\d\d(?::?\d\d)?)?"
_ISO = rf"^{_DATE}(?:[Tt ]{_CLOCK}\s?{_ZONE})?$"


@dataclass(frozen=True)
class Clock:
    """The unit of the keys of a time column; `is_float` says that they are `order_key`s."""

    is_float: bool
    per_second: int

    def is_date(self, key_N: Longs) -> Bools:
        """Which keys are in the years 1 to 9999."""
        number_N = self._numbers(key_N)
        first, last = (bound * self.per_second // 1_000 for bound in _YEARS_1_TO_9999)
        is_inside_N: Bools = (number_N >= first) & (number_N <= last)
        return is_inside_N

    def milliseconds(self, key_N: Longs) -> Longs:
        """int64 milliseconds since 1970 of some dates, rounded down (of a fraction: rounded)."""
        assert self.is_date(key_N).all()
        if self.is_float:
            number_N = self._numbers(key_N)
            return np.rint(number_N * (1_000 / self.per_second)).astype(np.int64)
        if self.per_second <= 1_000:
            return key_N * (1_000 // self.per_second)
        return key_N // (self.per_second // 1_000)

    def _numbers(self, key_N: Longs) -> npt.NDArray[Any]:
        if not self.is_float:
            return key_N
        return np.where(key_N >= 0, key_N, np.int64(-(2**63)) - key_N).view(np.float64)


def clock_of(kind: pa.DataType, time_format: str, time_unit: str | None) -> Clock | None:
    """The clock of a column of this type; None if its times have no date or no known unit."""
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return Clock(is_float=False, per_second=UNITS["ns"])
    if pa.types.is_time(kind) or pa.types.is_duration(kind):
        return None
    is_text = not (pa.types.is_integer(kind) or pa.types.is_floating(kind))
    if is_text and "%" in time_format and not re.search(r"%[YyGFDscx]", time_format):
        return None  # a time of day
    if is_text and time_format not in ("number", "integer"):
        return Clock(is_float=False, per_second=UNITS["us"])
    if time_unit is None:
        return None
    is_float = pa.types.is_floating(kind) or (is_text and time_format == "number")
    return Clock(is_float, UNITS[time_unit])


def parse_times(values: pa.Array, time_format: str) -> tuple[Longs, Bools, int]:
    """`(key_N, readable_N, partial)`: int64 keys in the order of the times.

    `time_format` applies to columns of text; other columns have a type. Numbers beyond 2^53 are
    unreadable as "number", because a float64 would not keep their order. Dates before 1678 and
    after 2262 are unreadable in typed columns, and texts of the year 0. `partial` counts the dates
    whose day or month is unknown; the first one is taken for it.
    """
    kind = values.type
    if pa.types.is_integer(kind):
        return *parse_integers(values), 0
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        stamp, readable_N = convert_each(values, lambda part: part.cast(pa.timestamp("ns")))
        return _whole(stamp), readable_N, 0
    if pa.types.is_time(kind) or pa.types.is_duration(kind):
        whole = pa.int32() if pa.types.is_time32(kind) else pa.int64()
        return *parse_integers(values.cast(whole)), 0
    if pa.types.is_floating(kind) or time_format == "number":
        number_N, readable_N = parse_numbers(values)
        return order_key(number_N), readable_N & (np.abs(number_N) < _LARGEST_EXACT), 0
    if time_format == "integer":
        return *parse_integers(values), 0
    if time_format == "iso8601":
        return parse_iso8601(values)
    return _parse_pattern(values, time_format)


def order_key(number_N: Doubles) -> Longs:
    """int64 keys in the order of finite float64 values; -0.0 and 0.0 have the same key."""
    bits_N = (number_N + 0.0).view(np.int64)
    return np.where(bits_N >= 0, bits_N, np.int64(-(2**63)) - bits_N)


def parse_iso8601(values: pa.Array) -> tuple[Longs, Bools, int]:
    """`(microsecond_N, readable_N, partial)` of times in the forms of ISO 8601 that people write.

    2024-05-06, 20240506, 2024-05 and 2024; then T or a blank and 09:11, 09:11:30, 09:11:30.125 or
    091130; then nothing, Z, +01, +0100 or +01:00.
    """
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:  # Arrow reads the usual forms, twenty times as fast
            stamp = values.cast(kind)
        except pa.ArrowInvalid:
            continue
        readable_N = np.array(pc.is_valid(stamp).to_numpy(zero_copy_only=False))
        return _whole(stamp.fill_null(0)), readable_N, 0
    text = pc.utf8_trim_whitespace(values)
    text = pc.replace_substring_regex(text, r"^(\d{4})(\d\d)(\d\d)($|[Tt ])", r"\1-\2-\3\4")
    text = pc.replace_substring_regex(text, r"([Tt ]\d\d)(\d\d)(\d\d)", r"\1:\2:\3")
    text = pc.replace_substring_regex(text, r"([Tt ]\d\d)(\d\d)($|[Zz+-])", r"\1:\2\3")
    found = pc.extract_regex(text, _ISO)
    matched_N = np.array(pc.is_valid(found).to_numpy(zero_copy_only=False))
    month, day = (pc.struct_field(found, name) for name in ("month", "day"))
    year_N, hour_N, minute_N, second_N = (
        _number(pc.struct_field(found, name)) for name in ("year", "hour", "minute", "second")
    )
    month_N, day_N = np.maximum(1, _number(month)), np.maximum(1, _number(day))
    is_partial_N = (_number(month) == 0) | (_number(day) == 0)
    fraction = pc.utf8_slice_codeunits(
        pc.utf8_rpad(pc.struct_field(found, "fraction"), 6, "0"), 0, 6
    )
    first_of_month = (
        ((year_N - 1970) * 12 + np.clip(month_N, 1, 12) - 1)
        .astype("datetime64[M]")
        .astype("datetime64[D]")
    )
    date_N = first_of_month + (day_N - 1)
    # A day that the month does not have lies in another month.
    is_date_N = (month_N <= 12) & (
        date_N.astype("datetime64[M]") == first_of_month.astype("datetime64[M]")
    )
    offset_N, is_zone_N = _offset(found)
    is_clock_N = (hour_N < 24) & (minute_N < 60) & (second_N < 60) & is_zone_N
    second_of_day_N = hour_N * 3_600 + minute_N * 60 + second_N - offset_N
    key_N = (date_N.astype(np.int64) * 86_400 + second_of_day_N) * 1_000_000 + _number(fraction)
    readable_N = matched_N & is_date_N & is_clock_N & (year_N > 0)
    return np.where(readable_N, key_N, 0), readable_N, int((is_partial_N & readable_N).sum())


def _offset(found: pa.StructArray) -> tuple[Longs, Bools]:
    """The seconds by which the zone of each match is ahead of UTC, and whether it is a zone."""
    zone = pc.replace_substring(pc.struct_field(found, "zone"), ":", "")
    sign_N = np.where(pc.fill_null(pc.starts_with(zone, "-"), False), -1, 1)
    hours_N = _number(pc.utf8_slice_codeunits(zone, 1, 3))
    minutes_N = _number(pc.utf8_slice_codeunits(zone, 3, 5))
    offset_N: Longs = sign_N * (hours_N * 3_600 + minutes_N * 60)
    return offset_N, (hours_N < 24) & (minutes_N < 60)


def _number(digits: pa.Array) -> Longs:
    """Digits as numbers; 0 where there are none."""
    is_number = pc.match_substring_regex(digits, r"^\d+$")
    number = pc.if_else(pc.fill_null(is_number, False), digits, "0").cast(pa.int64())
    return np.array(number.to_numpy(zero_copy_only=False))


def _parse_pattern(values: pa.Array, pattern: str) -> tuple[Longs, Bools, int]:
    """Microseconds of times in a pattern of strptime; `??` stands for an unknown day or month."""
    has_unknown = pc.fill_null(pc.match_substring(values, _UNKNOWN), False)
    if pc.any(has_unknown).as_py():
        for _ in range(2):  # two of them may share the sign between them
            pattern_of_one = r"(^|[^0-9?])\?\?($|[^0-9?])"
            values = pc.replace_substring_regex(values, pattern_of_one, r"\101\2")
        # What is left is a year that is known in part, such as 19??.
        values = pc.if_else(pc.match_substring(values, "?"), None, values)
    if "%f" in pattern:
        stamp, readable_N = _parse_fractions(values, pattern)
    else:
        stamp, readable_N = convert_each(values, lambda part: pc.strptime(part, pattern, "us"))
        stamp, readable_N = _without_lenient(values, stamp, readable_N, pattern)
    partial = np.array(has_unknown.to_numpy(zero_copy_only=False)) & readable_N
    return _whole(stamp), readable_N, int(partial.sum())


def _without_lenient(
    values: pa.Array, stamp: pa.Array, readable_N: Bools, pattern: str
) -> tuple[pa.Array, Bools]:
    """Reads again, strictly, what Arrow may have read leniently, such as the 31st of February.

    A time that is written in the pattern as it was read needs no second look.
    """
    if "%s" in pattern:  # seconds since 1970, which no other reader knows
        return stamp, readable_N
    is_same_N = np.zeros(len(values), np.bool_)
    if "%z" not in pattern:  # Arrow does not write the zone that it has read
        written = pc.strftime(stamp.cast(pa.timestamp("s"), safe=False), pattern)
        is_same_N = np.array(pc.fill_null(pc.equal(written, values), False))
    again = np.flatnonzero(readable_N & ~is_same_N)
    if not len(again):
        return stamp, readable_N
    strict, is_strict_N = _parse_fractions(values.take(pa.array(again)), pattern)
    readable_N[again] = is_strict_N
    key_N = np.array(pc.fill_null(stamp.cast(pa.int64()), 0))
    key_N[again] = np.array(strict.cast(pa.int64()))
    return pa.array(key_N, pa.timestamp("us")), readable_N


def _parse_fractions(values: pa.Array, pattern: str) -> tuple[pa.Array, Bools]:
    """Timestamps by Python's strptime, for Arrow's has no `%f`; each distinct text is read once."""
    for short, long in _SHORT_FOR.items():
        pattern = pattern.replace(short, long)
    encoded = values.dictionary_encode()
    stamps = [_parse_one(text, pattern) for text in encoded.dictionary.to_pylist()]
    found = pa.array(stamps, pa.timestamp("us")).take(encoded.indices)
    return pc.fill_null(found, 0), np.array(pc.is_valid(found).to_numpy(zero_copy_only=False))


def _parse_one(text: str, pattern: str) -> datetime | None:
    try:
        found = datetime.strptime(text, pattern)
        return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found
    except (ValueError, OverflowError):
        return None


def _whole(stamp: pa.Array) -> Longs:
    return parse_integers(stamp.cast(pa.int64()))[0]
