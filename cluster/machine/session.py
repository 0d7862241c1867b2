"""A Ray to work in: the one that RAY_ADDRESS names, or a local one for as long as the job."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

# Nothing of ours goes through the object store but small results; the default is 30 % of memory.
LOCAL_OBJECT_STORE_BYTES = 256 * 2**20
CONNECT_S = 10.0


_is_own: list[bool] = []  # of the session that this process is in


def is_own_ray() -> bool:
    """Whether the session's Ray was started by it: this machine, and never more."""
    return bool(_is_own and _is_own[-1])


@contextmanager
def ray_session(num_cpus: int | None = None, with_dashboard: bool = False) -> Iterator[None]:
    """Connected to Ray inside the block; a local Ray is stopped at its end.

    `num_cpus` is what a local Ray offers (None: all of the machine's). Its dashboard listens on
    this machine alone; without one Ray Train frees no CPUs when a driver within a job is killed.

    Raises:
        ValueError: nothing listens at RAY_ADDRESS.
    """
    if ray.is_initialized():  # a caller's session: jobs within a job share it
        yield
        return
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # Ray's default of 15 starves a training worker beside any ordinary process.
    os.environ.setdefault("RAY_worker_niceness", "0")
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _refuse_nobody(address)
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=with_dashboard,
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    _is_own.append(not address)
    try:
        yield
    finally:
        _is_own.pop()
        ray.shutdown()


def _refuse_nobody(address: str) -> None:
    """Ray itself would try for a quarter of an hour."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdigit()):
        return  # "auto", and whatever else Ray knows
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise ValueError(
            f"no Ray answers at RAY_ADDRESS={address} ({error}); start one there "
            "(ray start --head), or unset RAY_ADDRESS to use this machine alone"
        ) from error
