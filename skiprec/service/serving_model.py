"""The model that answers now, and how another takes its place without a lost request."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from skiprec.durable import file_sha256
from skiprec.inference.recommender import Executor, Recommender
from skiprec.inference.saved_model import MANIFEST, read_saved_model
from skiprec.service.catalogue import Catalogue

log = logging.getLogger(__name__)

RETRY_S = 60.0


@dataclass(frozen=True)
class LoadedModel:
    """A model that has passed its self-test.

    Args:
        version: see `version_of`.
        sample: histories of the self-test, by original ids.
    """

    recommender: Recommender
    catalogue: Catalogue
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
    saved, version = read_saved_model(folder), version_of(folder)
    sample = [case["history"] for case in saved.self_test]
    recommender = Recommender(saved, threads, executor)
    return LoadedModel(recommender, Catalogue(saved), folder.resolve(), version, sample)


def version_of(folder: Path) -> str:
    """The first digits of the sha256 of a model's manifest, which covers every file.

    Raises:
        ValueError: the folder has no manifest.
    """
    try:
        return file_sha256(folder / MANIFEST)[:12]
    except OSError as error:
        raise ValueError(f"{folder} is no exported model: {error.strerror}: {MANIFEST}") from None


class ServingModel:
    """A reference to the model that answers. A call keeps the model that it has begun with.

    `prepare` is called with a new model before it answers; if it raises ValueError, the old one
    stays. What it returns is called at the moment at which the new one takes over, under `switch`.
    """

    def __init__(self, load: Callable[[Path], LoadedModel], folder: Path):
        self._load = load
        self._one_at_a_time = threading.Lock()
        self.switch = threading.Lock()
        self.prepare: Callable[[LoadedModel], Callable[[], None]] = lambda loaded: lambda: None
        self.now = load(folder)

    def replace_by(self, folder: Path) -> LoadedModel:
        """Loads a model beside the one that answers, then swaps them.

        Raises:
            ValueError: the new model cannot be read; the old one goes on answering.
        """
        with self._one_at_a_time:
            loaded = self._load(folder)
            take_over = self.prepare(loaded)
            with self.switch:
                take_over()
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
    """Swaps the model whenever the pointer names another one; returns when `stop` is set.

    Another one is one with another manifest, so a folder that was exported anew counts, too. What
    is wrong is logged once, and the model that answers goes on answering. A folder that could not
    be loaded is tried again when its manifest has changed, or after `RETRY_S`.
    """
    failed, failed_s, last_problem = None, 0.0, None
    while not stop.wait(poll_s):
        named = None
        try:
            folder = read_pointer(pointer)
            named = folder.resolve(), version_of(folder)
            is_new = named != (model.now.folder, model.now.version)
            if is_new and (named != failed or time.monotonic() - failed_s > RETRY_S):
                model.replace_by(folder)
                last_problem = None
        except Exception as error:  # whatever a folder holds, the service goes on
            failed, failed_s = named, time.monotonic()
            if str(error) != last_problem:
                log.error("%s; model %s goes on answering", error, model.now.name)
            last_problem = str(error)
