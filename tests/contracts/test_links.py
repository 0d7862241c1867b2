"""Links of the documents resolve; the index, the glossary and the picture match the repository."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from tests.testkit.repository import ROOT, repository_files

DOCS = ROOT / "docs"
DOCUMENTS = sorted(path for path in repository_files() if path.suffix == ".md" and path.exists())
# Words that the code uses in a sense of its own. The glossary may explain more.
OWN_WORDS = set(
    "arm backbone block fragment frontier headroom hull kind knob lease manifest nest oracle pass "
    "plan policy price recipe row run shard shuffled statistics stream study surroundings sweep "
    "tier tile window".split()
) | {
    "dense execution",
    "fixed set",
    "gathered execution",
    "keep decision",
    "masked execution",
    "master weights",
    "one-stage",
    "operating point",
    "two-stage",
}
# Pages that use these words and link them to the glossary.
READERS_OF_THE_GLOSSARY = (
    "README.md CONTRIBUTING.md docs/index.md docs/method.md docs/metrics.md docs/numerics.md"
).split()


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchor(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    """The headings, and the anchors that are set by hand."""
    text = without_code(path.read_text())
    headings = re.findall(r"^#+ +(.+)$", text, flags=re.MULTILINE)
    return {anchor(heading) for heading in headings} | set(re.findall(r'<a id="([^"]+)">', text))


def links(text: str) -> list[str]:
    """Targets of the links and images, without those to the web."""
    text = re.sub(r"`[^`\n]*`", "", without_code(text))
    targets: list[str] = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def problem_of(target: str, document: Path) -> str | None:
    """Why a link of a document leads nowhere; None if it leads somewhere."""
    name, _, fragment = target.partition("#")
    path = (document.parent / name).resolve() if name else document
    if not path.exists():
        return f"there is no {name}"
    if fragment and fragment not in anchors(path):
        return f"{path.name} has no heading #{fragment}"
    return None


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_resolves(path: Path) -> None:
    problems = {target: problem_of(target, path) for target in links(path.read_text())}
    assert not {target: problem for target, problem in problems.items() if problem}


def test_a_wrong_link_is_noticed() -> None:
    """The control of the test above."""
    text = "[a](method.md) [b](methods.md) [c](method.md#equation) [d](#nothing) `[e](f.md)`"
    problems = [problem_of(target, DOCS / "metrics.md") for target in links(text)]
    assert problems[0] is None
    assert len(problems) == 4
    assert all(problems[1:])
    assert anchor("`headroom.json`: before a policy is trained") == (
        "headroomjson-before-a-policy-is-trained"
    )


def test_the_index_leads_to_every_page() -> None:
    named = {(DOCS / target.partition("#")[0]).resolve() for target in links(read("index.md"))}
    # What a study measured and a report on headroom are reached from the page of all studies, the
    # order of items in a dataset from the page on depth.
    pages = {path for path in DOCUMENTS if path.is_relative_to(DOCS)}
    pages -= {path for path in pages if path.name in ("table.md", "tradeoff.md", "order.md")}
    pages -= {path for path in pages if path.parent.name == "headroom"}
    assert pages - named == {DOCS / "index.md"}


def read(name: str) -> str:
    return (DOCS / name).read_text()


def glossary() -> dict[str, str]:
    """Each word with its explanation, in the order of the page."""
    parts = re.split(r"^## +(.+)$", read("glossary.md"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_glossary_is_sorted() -> None:
    words = list(glossary())
    assert words == sorted(words)


@pytest.mark.parametrize("word", glossary())
def test_an_entry_is_one_sentence_with_a_link(word: str) -> None:
    entry = " ".join(glossary()[word].split())
    assert links(entry)
    assert entry.endswith(").")
    sentence = re.sub(r"\(\S+\)|`[^`]*`|\S+\.py", "", entry)
    assert re.findall(r"[.;!?]( |$)", sentence) == [""]


def test_the_glossary_has_the_words_of_the_code() -> None:
    assert glossary().keys() >= OWN_WORDS


@pytest.mark.parametrize("name", READERS_OF_THE_GLOSSARY)
def test_a_page_links_our_words_to_the_glossary(name: str) -> None:
    assert any("glossary.md#" in target for target in links((ROOT / name).read_text()))


def labels_of_the_picture() -> list[str]:
    (picture,) = re.findall(r"```mermaid\n(.*?)```", read("index.md"), flags=re.DOTALL)
    return re.findall(r'"([^"]+)"', picture)


def missing_of(label: str) -> list[str]:
    """The files and folders that a label names and that are not there, and the classes and
    functions that it names and that its file does not define."""
    paths = re.findall(r"\b(?:skiprec|cluster|jobs|datasets)/[\w/.]+\w", label)
    missing = [path for path in paths if not (ROOT / path).exists()]
    words = re.sub(r"\b\S+/\S+", "", label.replace("<br/>", " "))
    names = re.findall(r"\b(?:[A-Z]\w*[a-z][A-Z]\w*|[a-z]+_\w+)\b", words)
    for path in paths:
        if path.endswith(".py") and path not in missing:
            missing += sorted(set(names) - defined_in(ROOT / path))
    return missing


def defined_in(path: Path) -> set[str]:
    """The classes, functions and methods of a file."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)}


def test_the_picture_names_what_exists() -> None:
    labels = labels_of_the_picture()
    assert sum("/" in label for label in labels) > 15
    assert not {label: missing for label in labels if (missing := missing_of(label))}


def test_a_wrong_name_in_the_picture_is_noticed() -> None:
    """The control of the test above."""
    assert missing_of("run_rank<br/>cluster/training/rank.py") == []
    assert missing_of("run_rang<br/>cluster/training/rank.py") == ["run_rang"]
    assert missing_of("BlokStack<br/>skiprec/models/stack.py") == ["BlokStack"]
    assert missing_of("recipe<br/>datasets/recipe") == ["datasets/recipe"]


def table_of_levels(package: str) -> str:
    """The layers of import-linter as the table of CONTRIBUTING.md, the highest level first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = [c["layers"] for c in contracts if c["name"] == f"inside {package}"]
    lines = [f"| level | `{package}` |", "|---:|---|"]
    for level, layer in zip(range(len(layers), 0, -1), layers, strict=True):
        modules = [f"`{name.strip().removeprefix(f'{package}.')}`" for name in layer.split("|")]
        lines.append(f"| {level} | {', '.join(modules)} |")
    return "\n".join(lines) + "\n\n"


@pytest.mark.parametrize("package", ["cluster", "skiprec"])
def test_the_levels_of_the_code_are_those_of_the_linter(package: str) -> None:
    expected = table_of_levels(package)
    shown = expected in (ROOT / "CONTRIBUTING.md").read_text()
    assert shown, f"CONTRIBUTING.md needs this table:\n{expected}"
