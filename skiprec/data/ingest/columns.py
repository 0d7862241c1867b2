"""Find the columns of a recipe in a file's header."""

from skiprec.config.reading import closest

# RecBole writes "user_id:token"; the part after the colon is a type, not a name.
_RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")


def locate_columns(wanted: tuple[str, ...], header: list[str], where: str) -> dict[str, int]:
    """The position of each wanted column; RecBole's typed names are found without their type.

    ValueError names the file, the columns there and the nearest one.
    """
    names = header if set(wanted) <= set(header) else [_without_type(name) for name in header]
    for column in wanted:
        if names.count(column) != 1:
            found = "twice" if column in names else "nowhere"
            near = closest(column, names)
            hint = f"; did you mean {near!r}?" if near and found == "nowhere" else ""
            raise ValueError(
                f"{where}: expected a column {column!r}, found it {found} among "
                f"{', '.join(header)}{hint}"
            )
    return {column: names.index(column) for column in wanted}


def _without_type(name: str) -> str:
    stem, _, kind = name.rpartition(":")
    return stem if stem and kind in _RECBOLE_TYPES else name
