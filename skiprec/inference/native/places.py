"""Where the sources of the native library are, and where the compiled library is looked for."""

import hashlib
import sys
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "src"
WHEEL_LIBRARY = SOURCES.with_name("libskiprec.so")


@cache
def checksum() -> str:
    """Twelve hex digits of the sha256 of all sources and of the flags in `build.py`."""
    digest = hashlib.sha256()
    for path in [*sorted(SOURCES.iterdir()), Path(__file__).with_name("build.py")]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def environment_library() -> Path:
    """The library that `make install` compiles, in the environment of this interpreter."""
    return Path(sys.prefix) / "lib" / "skiprec" / f"libskiprec-{checksum()}.so"


def find_library() -> Path | None:
    """The library of a wheel, beside this file, or that of the environment; None if neither."""
    for path in (WHEEL_LIBRARY, environment_library()):
        if path.exists():
            return path
    return None
