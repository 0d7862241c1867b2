"""Finds the columns of a recipe in the header of a file."""

from skiprec.config.reading import closest

# RecBole writes "user_id:token": the part after the colon is a type, not a part of the name.
_RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")


def locate_columns(wanted: tuple[str, ...], header: list[str], where: str) -> dict[str, int]:
    """The position of each wanted column. RecBole's typed names are also found without their type.

    Raises:
        ValueError: a column is missing or there twice; the message has the nearest column.
    """
    names = header if set(wanted) <= set(header) else [without_type(name) for name in header]
    for column in wanted:
        if names.count(column) != 1:
            count = "twice" if column in names else "nowhere"
            near = closest(column, names)
            hint = f"; did you mean {near!r}?" if near and count == "nowhere" else ""
            if len(names) == 1 and column in names[0] and not names[0].isidentifier():
                hint = "; the line holds one field: name what separates them with --separator"
            raise ValueError(
                f"{where}: expected a column {column!r}, found it {count} among "
                f"{cut(', '.join(header))}{hint}"
            )
    return {column: names.index(column) for column in wanted}


def cut(text: str, length: int = 500) -> str:
    """A text of somebody else's, for a message: without its end if it is long."""
    return text if len(text) <= length else f"{text[:length]}…"


def without_type(name: str) -> str:
    """A column's name without the type that RecBole adds to it."""
    stem, _, kind = name.rpartition(":")
    return stem if stem and kind in _RECBOLE_TYPES else name
