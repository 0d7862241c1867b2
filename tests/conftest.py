"""One thread and fixed examples, so that a test says the same thing each time it runs."""

import os
import signal

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)  # ranks of a test share two cores, and sums keep their order
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is first imported
# A shell starts background commands with Ctrl-C switched off, and programs of tests inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")

# `make test` prints such a tier as "not run"; a plain `pytest` leaves it out.
collect_ignore = [] if torch.cuda.is_available() else ["gpu"]
