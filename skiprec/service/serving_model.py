"""The model that answers now, and how another takes its place without a lost request."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from skiprec.durable import file_sha256
from skiprec.inference.recommender import Executor, Recommender
from skiprec.inference.saved_model import MANIFEST, read_saved_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model that has passed its self-test.

    Args:
        version: the first digits of the sha256 of its manifest, which covers every file.
        sample: histories of the self-test, by original ids.
    """

    recommender: Recommender
    folder: Path
    version: str
    sample: list[list[str]]

    @property
    def name(self) -> str:
        """Name and version, as answers give it."""
        return f"{self.recommender.spec.name}@{self.version}"


def load_model(folder: Path, threads: int, executor: Executor | None = None) -> LoadedModel:
    """Reads a model and lets it answer its self-test.

    Raises:
        ValueError: no model in this folder, another format version, or a damaged file.
    """
    saved = read_saved_model(folder)
    version = file_sha256(folder / MANIFEST)[:12]
    sample = [case["history"] for case in saved.self_test]
    recommender = Recommender(saved, threads, executor)
    return LoadedModel(recommender, folder.resolve(), version, sample)


class ServingModel:
    """A reference to the model that answers. A call keeps the model that it has begun with.

    `on_swap` is called with a new model before it answers; if it raises ValueError, the old one
    stays.
    """

    def __init__(self, load: Callable[[Path], LoadedModel], folder: Path):
        self._load = load
        self._swap = threading.Lock()
        self.on_swap: Callable[[LoadedModel], None] = lambda loaded: None
        self.now = load(folder)

    def replace_by(self, folder: Path) -> LoadedModel:
        """Loads a model beside the one that answers, then swaps them.

        Raises:
            ValueError: the new model cannot be read; the old one goes on answering.
        """
        with self._swap:
            loaded = self._load(folder)
            self.on_swap(loaded)
            self.now = loaded
        log.info("model %s from %s answers now", loaded.name, folder)
        return loaded


def read_pointer(pointer: Path) -> Path:
    """The folder that a pointer file names; a relative one starts at the file's folder.

    Raises:
        ValueError: the file cannot be read, or is empty.
    """
    try:
        text = pointer.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the pointer file {pointer}: {error}") from None
    if not text:
        raise ValueError(f"the pointer file {pointer} is empty; expected the folder of a model")
    return pointer.parent / text


def follow_pointer(
    pointer: Path, model: ServingModel, stop: threading.Event, poll_s: float = 1.0
) -> None:
    """Swaps the model whenever the pointer names another folder; returns when `stop` is set.

    What is wrong is logged once, and the model that answers goes on answering.
    """
    last_problem = None
    while not stop.wait(poll_s):
        try:
            folder = read_pointer(pointer)
            if folder.resolve() != model.now.folder:
                model.replace_by(folder)
            last_problem = None
        except Exception as error:  # whatever a folder holds, the service goes on
            if str(error) != last_problem:
                log.error("%s; model %s goes on answering", error, model.now.name)
            last_problem = str(error)
