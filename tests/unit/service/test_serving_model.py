"""A pointer is followed to another folder or one that was exported anew, never to a bad one."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from skiprec.service import serving_model
from skiprec.service.serving_model import (
    LoadedModel,
    ServingModel,
    follow_pointer,
    load_model,
    read_pointer,
    version_of,
)
from tests.testkit.exports import export_small_model


class Following:
    """A thread that follows a pointer fast, and the folders that it has loaded."""

    def __init__(self, pointer: Path) -> None:
        self.loads: list[str] = []
        self.model = ServingModel(self.load, read_pointer(pointer))
        self.stop = threading.Event()
        arguments = (pointer, self.model, self.stop, 0.01)
        self.thread = threading.Thread(target=follow_pointer, args=arguments)
        self.thread.start()

    def load(self, folder: Path) -> LoadedModel:
        self.loads.append(folder.name)
        return load_model(folder, threads=1)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        for _ in range(1000):
            if condition():
                return
            self.stop.wait(0.01)
        raise AssertionError(self.loads)


@pytest.fixture
def following(tmp_path: Path) -> Following:
    export_small_model(tmp_path / "a")
    (tmp_path / "current").write_text("a")
    following = Following(tmp_path / "current")
    yield following
    following.stop.set()
    following.thread.join()


def test_another_folder_and_the_same_folder_exported_anew(
    following: Following, tmp_path: Path
) -> None:
    export_small_model(tmp_path / "b", kind="cost")
    (tmp_path / "current").write_text("b")
    following.wait_for(lambda: following.model.now.folder.name == "b")
    (tmp_path / "b").rename(tmp_path / "old")
    export_small_model(tmp_path / "b", width=16)
    wanted = version_of(tmp_path / "b")
    assert wanted != version_of(tmp_path / "old")
    following.wait_for(lambda: following.model.now.version == wanted)
    following.stop.wait(0.2)
    assert following.loads == ["a", "b", "b"], "a model that answers is not loaded again"


def test_a_damaged_model_is_loaded_again_once_it_has_changed_or_after_a_while(
    following: Following, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_small_model(tmp_path / "b", kind="cost")
    whole = (tmp_path / "b/weights.safetensors").read_bytes()
    (tmp_path / "b/weights.safetensors").write_bytes(whole[:-1])
    (tmp_path / "current").write_text("b")
    following.wait_for(lambda: "b" in following.loads)
    following.stop.wait(0.3)
    assert following.loads == ["a", "b"]
    assert following.model.now.folder.name == "a"
    (tmp_path / "b/weights.safetensors").write_bytes(whole)
    monkeypatch.setattr(serving_model, "RETRY_S", 0.0)
    following.wait_for(lambda: following.model.now.folder.name == "b")


def test_the_new_model_and_what_belongs_to_it_take_over_together(
    following: Following, tmp_path: Path
) -> None:
    export_small_model(tmp_path / "b", kind="cost")
    held: list[bool] = []
    model = following.model
    model.prepare = lambda loaded: lambda: held.append(model.switch.locked())
    model.replace_by(tmp_path / "b")
    assert held == [True]
