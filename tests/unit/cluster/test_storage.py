"""A run's copy on storage: a folder, S3, and a filesystem of fsspec."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from pyarrow import fs

from cluster.runs import storage as storage_module
from cluster.runs.folder import request_stop
from cluster.runs.storage import (
    Storage,
    TakenOverError,
    Uploads,
    open_storage,
    restore,
    take_over,
    upload,
)
from cluster.training import launch as train
from skiprec.checkpoints.files import newest_good
from skiprec.config.cluster import ClusterConfig
from skiprec.config.run import RunConfig
from tests.testkit.runs import (
    build_smoke_data,
    last_weights,
    metric,
    same_weights,
    smoke_config,
)
from tests.testkit.s3 import s3_server


@pytest.fixture(params=["folder", "s3", "fsspec"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "s3":
        with s3_server() as bucket:
            yield bucket
    else:
        yield str(tmp_path / "there") if request.param == "folder" else f"memory://{tmp_path}"


def opened(uri: str) -> Storage:
    storage = open_storage(ClusterConfig(storage_path=uri), "run")
    assert storage is not None
    take_over(storage, "me")
    return storage


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def checkpoint(folder: Path, step: int, text: str = "w") -> None:
    place = folder / "checkpoints" / f"step-{step:08d}"
    (place / "engine").mkdir(parents=True)
    (place / "engine" / "rank").write_text(text)
    (place / "zzz").write_text(text)
    (place / "manifest.json").write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_uploaded_comes_back(tmp_path: Path, uri: str) -> None:
    folder, other = tmp_path / "run", tmp_path / "other"
    write(folder, **{"config.json": "c", "metrics.jsonl": "1\n", "tensorboard__events": "e"})
    kept = contents(folder)
    write(folder, **{"lease.json": "l", "ray__start": "r", ".draft": "d", "STOP": ""})
    for step in (3, 5):
        checkpoint(folder, step)
    storage = opened(uri)
    upload(storage, folder, "me")
    assert restore(storage, other) == 5
    names = {f"checkpoints/step-0000000{step}/{name}" for step in (3, 5) for name in FILES}
    assert contents(other).keys() == kept.keys() | names
    assert all(contents(other)[name] == text for name, text in kept.items())

    shutil.rmtree(folder / "checkpoints/step-00000003")
    checkpoint(folder, 7)
    write(folder, **{"metrics.jsonl": "1\n2\n"})
    upload(storage, folder, "me")
    assert restore(storage, other) == 7
    assert (other / "metrics.jsonl").read_text() == "1\n2\n"
    again = tmp_path / "again"
    restore(storage, again)
    assert sorted(path.name for path in (again / "checkpoints").iterdir()) == [
        "step-00000005",
        "step-00000007",
    ]


FILES = ("engine/rank", "zzz", "manifest.json")


def test_a_folder_that_is_ahead_is_left_alone(tmp_path: Path, uri: str) -> None:
    folder = tmp_path / "run"
    write(folder, **{"config.json": "c"})
    checkpoint(folder, 3)
    storage = opened(uri)
    assert restore(storage, folder) is None, "nothing is there yet"
    upload(storage, folder, "me")
    checkpoint(folder, 4)
    before = contents(folder)
    assert restore(storage, folder) is None
    assert contents(folder) == before


class Failing:
    """A filesystem that fails after `takes` files; it records their names."""

    def __init__(self, files: Any, takes: int):
        self.files, self.takes, self.taken = files, takes, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.files, name)

    def open_output_stream(self, path: str) -> Any:
        if len(self.taken) == self.takes:
            raise OSError("the storage is away")
        self.taken.append(path)
        return self.files.open_output_stream(path)


def test_an_upload_that_was_cut_off_does_not_count(tmp_path: Path, uri: str) -> None:
    folder, storage = tmp_path / "run", opened(uri)
    write(folder, **{"config.json": "c"})
    checkpoint(folder, 3)
    upload(storage, folder, "me")
    checkpoint(folder, 5)
    for takes in range(len(FILES)):
        failing = Storage(Failing(storage.files, takes), storage.path)
        with pytest.raises(OSError, match="away"):
            upload(failing, folder, "me")
        other = tmp_path / f"other{takes}"
        assert restore(storage, other) == 3
        assert not (other / "checkpoints/step-00000005").exists()
    counting = Failing(storage.files, 100)
    upload(Storage(counting, storage.path), folder, "me")
    start = f"{storage.path}/checkpoints/step-0000000"
    sent = [path.removeprefix(start) for path in counting.taken if "step-" in path]
    assert sent == ["5/engine/rank", "5/zzz", "5/manifest.json"], "whole, and nothing else again"


def test_a_step_saved_anew_replaces_its_copy(tmp_path: Path, uri: str) -> None:
    """The step has other bytes of the same size, as with another number of workers."""
    folder, storage = tmp_path / "run", opened(uri)
    write(folder, **{"config.json": "c"})
    checkpoint(folder, 3, "a")
    upload(storage, folder, "me")
    shutil.rmtree(folder / "checkpoints")
    checkpoint(folder, 3, "b")
    failing = Storage(Failing(storage.files, 1), storage.path)
    with pytest.raises(OSError, match="away"):
        upload(failing, folder, "me")
    assert restore(storage, tmp_path / "mixed") == 0
    upload(storage, folder, "me")
    assert restore(storage, tmp_path / "other") == 3
    assert {text for name, text in contents(tmp_path / "other").items() if "step" in name} == {"b"}


@pytest.mark.parametrize("name", ["../../outside", "/etc/outside", "checkpoints/../../outside"])
def test_a_name_that_climbs_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    class Hostile:
        def get_file_info(self, selector: Any) -> list[Any]:
            return [SimpleNamespace(path=f"there/{name}", type=fs.FileType.File, size=1)]

    with pytest.raises(ValueError, match="is no file of a run"):
        restore(Storage(Hostile(), "there"), tmp_path / "run")


def test_a_later_start_takes_the_storage_over(tmp_path: Path, uri: str) -> None:
    folder, storage = tmp_path / "run", opened(uri)
    write(folder, **{"config.json": "c"})
    take_over(storage, "another")
    with pytest.raises(TakenOverError, match="another start"):
        upload(storage, folder, "me")
    assert "config.json" not in storage.listing()


def test_a_restore_that_was_cut_off_is_completed(tmp_path: Path, uri: str) -> None:
    """Checkpoints without a manifest count neither as local ones nor as ones to copy."""
    folder, storage, other = tmp_path / "run", opened(uri), tmp_path / "other"
    write(folder, **{"config.json": "c"})
    for step in (3, 5):
        checkpoint(folder, step)
    upload(storage, folder, "me")
    whole = restore(storage, other), contents(other)
    for step in (3, 5):
        (other / f"checkpoints/step-{step:08d}/manifest.json").unlink()
    upload(storage, other, "me")
    assert (restore(storage, other), contents(other)) == whole


def test_a_slow_upload_is_waited_for_a_while_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "POLL_S", 0.01)
    folder, storage, may_go = tmp_path / "run", opened(str(tmp_path / "there")), Event()
    write(folder, **{"config.json": "c"})

    class Slow(Failing):
        def open_output_stream(self, path: str) -> Any:
            may_go.wait(30)
            return super().open_output_stream(path)

    uploads = Uploads(Storage(Slow(storage.files, 9), storage.path), folder, "me", print)
    assert not uploads.is_busy(), "none was started"
    uploads.start()
    assert uploads.is_busy()
    assert uploads.is_busy()
    may_go.set()
    while uploads.is_busy():
        pass
    assert "config.json" in storage.listing()


def test_a_failed_upload_is_logged_and_made_up_for(tmp_path: Path) -> None:
    folder, storage, logged = tmp_path / "run", opened(str(tmp_path / "there")), []
    write(folder, **{"config.json": "c"})
    failing = Failing(storage.files, 0)
    uploads = Uploads(Storage(failing, storage.path), folder, "me", logged.append)
    uploads.start()
    assert not uploads.is_busy()
    assert "the storage is away" in logged[0]
    failing.takes = 9
    uploads.start()
    assert not uploads.is_busy()
    assert len(logged) == 1
    assert "config.json" in storage.listing()


@pytest.mark.parametrize("uri", ["/proc/nowhere", "nothing://at/all"])
def test_storage_that_is_not_there_is_said_so(uri: str) -> None:
    with pytest.raises(ValueError, match=r"cluster\.storage_path='.*cannot be written to"):
        open_storage(ClusterConfig(storage_path=uri), "run")


def here(root: Path, data: Path, *more: str) -> RunConfig:
    placing = ("training.engine=torch", "cluster.num_workers=0")
    every = ("training.checkpoint_every_steps=2", "training.keep_checkpoints=1")
    return smoke_config(root, data, *placing, *every, *more)


def test_a_run_goes_on_where_nothing_is_left_but_its_copy(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = build_smoke_data(tmp_path)
    whole = here(tmp_path / "whole", data)
    train.launch_training(whole)
    config = here(tmp_path / "first", data, f'cluster.storage_path="{uri}"')
    monkeypatch.setattr(train, "clear_stop", lambda config: request_stop(config))
    with pytest.raises(train.RunStoppedError):
        train.launch_training(config)
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "first")

    elsewhere = here(tmp_path / "second", data, f'cluster.storage_path="{uri}"')
    train.launch_training(elsewhere)
    events = (elsewhere.folder / "events-rank0.jsonl").read_text().splitlines()
    assert len(events) == 2
    assert "from step 0" not in events[1]
    assert metric(elsewhere, "train/loss") == metric(whole, "train/loss")
    assert same_weights(last_weights(elsewhere), last_weights(whole))

    shutil.rmtree(tmp_path / "second")
    assert train.launch_training(elsewhere)["steps"] == 10
    path, skipped = newest_good(elsewhere.folder / "checkpoints")
    assert path is not None
    assert not skipped
