"""Connects a job to the Ray cluster at RAY_ADDRESS, or to a local Ray that ends with the job."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

# Only small results go through Ray's object store; Ray's default would be 30 % of memory.
LOCAL_OBJECT_STORE_BYTES = 256 * 2**20
CONNECT_S = 10.0
# On a local Ray nobody takes the machine away, and Ray Train's watcher for that is one more process
# that has to start for each run.
WATCH_PREEMPTIONS = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"

_is_own: list[bool] = []  # for each open session of this process: whether it started its Ray


def is_own_ray() -> bool:
    """Whether this session started its Ray, which then never has more than this machine."""
    return bool(_is_own and _is_own[-1])


@contextmanager
def ray_session(num_cpus: int | None = None, with_dashboard: bool = False) -> Iterator[None]:
    """Connects to Ray inside the block; a local Ray is stopped at the end of the block.

    Args:
        num_cpus: the CPUs that a local Ray offers. None: all CPUs of the machine.
        with_dashboard: whether a local Ray has a dashboard, which listens on this machine only.
            Without a dashboard, Ray Train does not free the CPUs of a nested driver that was
            killed.

    Raises:
        ValueError: RAY_ADDRESS is no address of a Ray, or nothing listens there.
    """
    if ray.is_initialized():  # The caller has a session; nested jobs share it.
        yield
        return
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # Ray's default niceness of 15 starves training workers beside any ordinary process.
    os.environ.setdefault("RAY_worker_niceness", "0")
    address, is_chosen = os.environ.get("RAY_ADDRESS"), WATCH_PREEMPTIONS in os.environ
    if address:
        _refuse_dead_address(address)
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        os.environ.setdefault(WATCH_PREEMPTIONS, "0")
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
        if not address and not is_chosen:
            del os.environ[WATCH_PREEMPTIONS]


def _refuse_dead_address(address: str) -> None:
    """Raises ValueError if nothing listens there; Ray would try for a quarter of an hour."""
    if address in ("auto", "local"):
        return  # Ray itself resolves these
    if address.startswith(("http://", "https://")):
        raise ValueError(
            f"RAY_ADDRESS={address} is the address of a job server; send a job there with "
            f"`ray job submit --address {address} -- python …`, or set RAY_ADDRESS to the head's "
            "own address, such as 127.0.0.1:6379"
        )
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and host and port.isdigit()):
        raise ValueError(
            f"RAY_ADDRESS={address} is no address; expected host:port of a head, such as "
            "127.0.0.1:6379, or ray://host:10001, or auto: unset it to use only this machine"
        )
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise ValueError(
            f"no Ray answers at RAY_ADDRESS={address} ({error}); start one there "
            "(ray start --head), or unset RAY_ADDRESS to use only this machine"
        ) from error
