"""The native library under test, or the reason why there is none."""

import functools
import subprocess
import tempfile
from pathlib import Path

import pytest

from skiprec.inference.native.build import build, find_compiler
from skiprec.inference.native.places import checksum, find_library


@functools.cache
def native_library() -> Path:
    """The library of this environment, else one that is compiled now; skips without a compiler."""
    found = find_library()
    if found is not None:
        return found
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("the native executor is not built: no C++ compiler")
    library = Path(tempfile.gettempdir()) / f"libskiprec-{checksum()}.so"
    if not library.exists():
        build(library, compiler)
    return library


def sanitized_program(
    folder: Path, source: Path, flags: tuple[str, ...], levels: list[str] | None = None
) -> Path:
    """A program of one C++ file and the library, both compiled with a sanitizer; skips without."""
    compiler = find_compiler()
    if compiler is None or "ziglang" in compiler:
        pytest.skip("sanitizers need the system's C++ compiler")
    library, program = folder / "libskiprec.so", folder / "program"
    build(library, compiler, (*flags, "-O1", "-g"), levels)
    command = [*compiler, "-std=c++17", *flags, str(source), str(library)]
    command += [f"-Wl,-rpath,{folder}", "-pthread", "-o", str(program)]
    subprocess.run(command, check=True)
    return program
