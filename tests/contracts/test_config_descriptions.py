"""Every key of a run's configuration has a sentence below it that describes the key."""

from collections.abc import Iterator
from typing import get_args

import pytest
from pydantic import BaseModel

from skiprec.config.run import RunConfig
from skiprec.config.section import Section
from skiprec.policy.kinds import OPTIONS

MIN_WORDS = 4


def sections_of(section: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The section, and the sections that are its fields, also optional ones."""
    yield section
    for field in section.model_fields.values():
        for annotation in (field.annotation, *get_args(field.annotation)):
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield from sections_of(annotation)


SECTIONS = {*sections_of(RunConfig), *OPTIONS.values()}
KEYS = [
    (section, name)
    for section in sorted(SECTIONS, key=lambda section: (section.__module__, section.__name__))
    for name in section.model_fields
]


def problem_of(section: type[BaseModel], name: str) -> str | None:
    """The reason why a key's description is not good enough; None if it is."""
    description = section.model_fields[name].description
    if description is None:
        return "there is no sentence below the key"
    if len(description.split()) < MIN_WORDS:
        return f"{description!r} has fewer than {MIN_WORDS} words"
    if not description.endswith("."):
        return f"{description!r} does not end with a full stop"
    return None


@pytest.mark.parametrize(
    ("section", "name"),
    KEYS,
    ids=[f"{section.__module__.removeprefix('skiprec.')}-{name}" for section, name in KEYS],
)
def test_every_key_has_a_description(section: type[BaseModel], name: str) -> None:
    assert problem_of(section, name) is None


def test_every_section_has_a_description() -> None:
    for section in SECTIONS:
        assert section.__doc__, section


def test_every_section_is_checked() -> None:
    names = {section.__module__ for section in SECTIONS}
    for section in ("data", "model", "loss", "training", "cluster", "evaluation", "run"):
        assert f"skiprec.config.{section}" in names
    for kind in OPTIONS:
        assert f"skiprec.policy.{kind}.options" in names


class BadSection(Section):
    """The control of the tests above."""

    absent: int = 0
    short: int = 0
    """Three words only."""
    no_stop: int = 0
    """Number of rows in a batch"""
    good: int = 0
    """Number of rows in a batch."""


def test_the_check_sees_what_is_forbidden() -> None:
    problems = {name: problem_of(BadSection, name) for name in BadSection.model_fields}
    assert problems["good"] is None
    assert "no sentence" in problems["absent"]
    assert "fewer than" in problems["short"]
    assert "full stop" in problems["no_stop"]
