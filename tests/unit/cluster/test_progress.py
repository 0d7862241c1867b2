"""A job prints each complete line that a run in other processes logs, once."""

import json
import time
from pathlib import Path

import pytest

from cluster.runs.events import controller_events, rank_events
from cluster.training import progress
from cluster.training.progress import Follower, shown_progress


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0.01)


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_only_complete_new_lines_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append(path, '{"old": 1}\n')
    follower = Follower(path)
    append(path, '{"a": 1}\n{"b":')
    assert follower.new_lines() == [{"a": 1}]
    append(path, " 2}\n")
    assert follower.new_lines() == [{"b": 2}]
    assert follower.new_lines() == []
    replaced = tmp_path / "new"
    append(replaced, '{"a": 1}\n')
    replaced.replace(path)  # A resumed run replaces its log by a shorter one.
    assert follower.new_lines() == []
    append(path, '{"c": 3}\n')
    assert follower.new_lines() == [{"c": 3}]


def test_events_are_shown_and_silence_is_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SILENT_S", 0.1)
    for file in (rank_events(tmp_path, 0), controller_events(tmp_path)):
        with shown_progress(tmp_path, "r"):
            append(file, json.dumps({"message": f"of {file}"}) + "\n")
            time.sleep(0.3)
        assert capsys.readouterr().out == f"[r] of {file}\n"
    with shown_progress(tmp_path, "r"):
        time.sleep(0.3)
    printed = capsys.readouterr().out
    assert printed.count("no worker has started yet") == 1
    assert printed.startswith("[r] ")
