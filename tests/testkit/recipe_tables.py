"""The tables of a recipe's keys in docs/data.md: `python -m tests.testkit.recipe_tables` writes
them anew."""

import json
import re
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from skiprec.data.ingest.recipe import Filters, Recipe, Source
from skiprec.data.splits import SplitConfig
from tests.testkit.repository import ROOT

DOCUMENT = ROOT / "docs/data.md"
BEGIN, END = "<!-- keys of a recipe: begin -->\n", "<!-- keys of a recipe: end -->\n"
SOURCES: tuple[type[BaseModel], ...] = get_args(get_args(Source)[0])
SPLITS: tuple[type[BaseModel], ...] = get_args(get_args(SplitConfig)[0])
MODELS = (Recipe, *SOURCES, Filters, *SPLITS)


def tables() -> str:
    """All tables: the keys at the top, of each kind of source, of the filters, of each split."""
    parts = [table("The top of the file", Recipe)]
    parts += [table(title("source", model), model, "source.") for model in SOURCES]
    parts += [table("`[filters]`", Filters, "filters.")]
    parts += [table(title("split", model), model, "split.") for model in SPLITS]
    return "\n".join(parts)


def title(section: str, model: type[BaseModel]) -> str:
    return f'`[{section}]` with `kind = "{model.model_fields["kind"].default}"`'


def table(heading: str, model: type[BaseModel], prefix: str = "") -> str:
    """One table; the key `kind` is in its heading."""
    intro = ""
    if "kind" in model.model_fields:
        intro = f"{one_line(model.model_fields['kind'].description)}\n\n"
    rows = [
        f"| `{prefix}{name}` | {default(field)} | {one_line(field.description)} |"
        for name, field in model.model_fields.items()
        if name != "kind"
    ]
    keys = "\n".join(["| key | default | meaning |", "|---|---|---|", *rows]) + "\n"
    return f"### {heading}\n\n{intro}{keys if rows else 'It has no further keys.' + chr(10)}"


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel):
        return "its defaults"
    return "none" if field.default is None else f"`{json.dumps(field.default)}`"


def one_line(text: str | None) -> str:
    assert text is not None, "a key without a description"
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def with_tables(document: str) -> str:
    """The document with the tables between its two marks written anew."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text()))
