"""A search finds words of a name or id in any order, the frequent items first."""

from pathlib import Path

import httpx
import numpy as np
import pytest

from skiprec.inference.saved_model import read_saved_model
from skiprec.service.catalogue import Catalogue
from tests.testkit.exports import IDS, export_small_model
from tests.testkit.service import ask, serving

NAMES = {
    IDS[0]: "Milk, whole",
    IDS[1]: "Äpfel",
    IDS[4]: "Whole wheat BREAD (fresh)",
    IDS[6]: "a.c",
    IDS[7]: "abc",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    export_small_model(folder, names=[NAMES.get(item) for item in IDS])
    return folder


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("whole", [IDS[0], IDS[4]]),
        ("WHOLE bread", [IDS[4]]),
        ("bread whole", [IDS[4]]),
        ("äpf", [IDS[1]]),
        ("a.c", [IDS[6]]),
        ("(fresh", [IDS[4]]),
        ("item 3", [item for item in IDS if "item" in item and "3" in item]),
        ("nothing like it", []),
        ("  ", IDS),
    ],
)
def test_what_a_query_finds(folder: Path, query: str, found: list[str]) -> None:
    catalogue = Catalogue(read_saved_model(folder))
    assert [item.id for item in catalogue.search(query, 100)] == found
    assert [item.id for item in catalogue.search(query, 1)] == found[:1]


def test_the_frequent_items_come_first(folder: Path) -> None:
    saved = read_saved_model(folder)
    saved = type(saved)(**{**vars(saved), "count_V": np.arange(len(IDS))})
    found = Catalogue(saved).search("", 3)
    assert [(item.id, item.count) for item in found] == [
        (IDS[n], n) for n in range(len(IDS) - 1, len(IDS) - 4, -1)
    ]


def test_the_route_and_the_names_in_answers(folder: Path) -> None:
    with serving(folder) as (_, address):
        items = httpx.get(f"{address}/v1/items", params={"q": "whole", "limit": 1}).json()["items"]
        assert [(item["id"], item["name"]) for item in items] == [(IDS[0], "Milk, whole")]
        assert len(httpx.get(f"{address}/v1/items").json()["items"]) == 20
        given = {"ids": [IDS[4], "unknown", IDS[0]]}
        items = httpx.post(f"{address}/v1/items/lookup", json=given).json()["items"]
        assert [item["id"] for item in items] == [IDS[0], IDS[4]]
        too_many = httpx.post(f"{address}/v1/items/lookup", json={"ids": ["x"] * 101})
        assert too_many.status_code == 422
        assert too_many.json()["problems"][0]["field"] == "ids"
        wrong = httpx.get(f"{address}/v1/items", params={"limit": 0})
        assert wrong.status_code == 422
        assert wrong.json()["problems"][0]["field"] == "query.limit"
        body = {"histories": [[IDS[2]], []], "k": 30, "names": True, "exclude_seen": False}
        for result in ask(address, body).json()["results"]:
            assert result["names"] == [NAMES.get(item) for item in result["items"]]
        plain = ask(address, body | {"names": False}).json()["results"]
        assert [result["names"] for result in plain] == [None, None]


def test_an_explained_answer_has_the_time_of_each_part(folder: Path) -> None:
    with serving(folder) as (_, address):
        ms = ask(address, {"histories": [[IDS[2]]], "explain": True}).json()["results"][0]["ms"]
        assert 0 < ms["policy"] + ms["blocks"] + ms["head"] <= ms["executor"] <= ms["total"]
        plain = ask(address, {"histories": [[IDS[2]]]}).json()["results"][0]["ms"]
        assert plain.keys() == {"waiting", "executor", "total"}
