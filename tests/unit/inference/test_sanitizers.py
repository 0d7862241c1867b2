"""Random shapes and requests under the sanitizers for addresses, undefined behaviour, threads."""

import subprocess
from pathlib import Path

import pytest

from tests.testkit.native import sanitized_program

FUZZER = Path(__file__).parents[2] / "testkit/native_fuzzer.cpp"
# Levels differ in their vectors, and so in what they read; threads do the same at each.
CHECKS = {
    "addresses": (("-fsanitize=address,undefined", "-fno-sanitize-recover=all"), None),
    "threads": (("-fsanitize=thread",), ["generic"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", CHECKS)
def test_no_shape_and_no_request_does_anything_undefined(tmp_path: Path, what: str) -> None:
    program = sanitized_program(tmp_path, FUZZER, *CHECKS[what])
    done = subprocess.run([program, "1", "150"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout.split()[0]) > 100
