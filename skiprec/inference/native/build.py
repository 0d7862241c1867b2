"""Compiles the native library; `make install` runs `python -m skiprec.inference.native.build`.

The library goes into the environment (`sys.prefix`), under a name that holds a checksum of its
sources. So a checkout with other sources never loads it, and a job that Ray unpacks elsewhere finds
it. All levels of the processor are in one file, and nothing is compiled at run time.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from skiprec.inference.native.places import SOURCES, environment_library

COMMON = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno"]
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
AVX512 += ["-mprefer-vector-width=512"]
VNNI = [*AVX512, "-mavx512vnni"]
LEVELS = {
    "generic": [],
    "avx2": AVX2,
    "avx512": AVX512,
    "avx512_vnni": VNNI,
    "avx512_bf16": [*VNNI, "-mavx512bf16"],
    "amx_bf16": [*VNNI, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
}


def find_compiler() -> list[str] | None:
    """The command of a C++ compiler: the system's, or that of the package `ziglang`."""
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    has_zig = importlib.util.find_spec("ziglang") is not None
    # Without a processor, zig compiles for the one of this machine, also the level `generic`.
    return [sys.executable, "-m", "ziglang", "c++", "-mcpu=baseline"] if has_zig else None


def levels_of(machine: str) -> list[str]:
    """The levels that are compiled for a processor, as `platform.machine()` names it."""
    return list(LEVELS) if machine in ("x86_64", "AMD64") else ["generic"]


def known_levels(compiler: list[str], levels: list[str]) -> list[str]:
    """Those of `levels` whose flags the compiler knows; GCC before 11 does not know AMX."""

    def is_known(level: str) -> bool:
        if level == "generic":
            return True  # it has no flags; a compiler that fails here fails with a message later
        command = [*compiler, *LEVELS[level], "-fsyntax-only", "-x", "c++", os.devnull]
        return subprocess.run(command, capture_output=True).returncode == 0

    return [level for level in levels if is_known(level)]


def build(
    library: Path,
    compiler: list[str],
    extra: tuple[str, ...] = (),
    levels: list[str] | None = None,
) -> None:
    """Compiles the library; the file appears whole or not at all.

    Args:
        extra: further flags of compiler and linker, such as those of a sanitizer.
        levels: None means those of this machine's processor that the compiler knows.

    Raises:
        subprocess.CalledProcessError: the compiler failed; its messages are in `stderr`.
    """
    levels = levels or known_levels(compiler, levels_of(platform.machine()))
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:

        def compile_level(level: str) -> str:
            name = [f"-DLEVEL={level}", f"-DLEVEL_FUNCTION=skiprec_level_{level}"]
            target = f"{folder}/{level}.o"
            flags = [*COMMON, "-ffp-contract=fast", *LEVELS[level], *extra, *name]
            _run([*compiler, *flags, "-c", str(SOURCES / "level.cpp"), "-o", target])
            return target

        with ThreadPoolExecutor() as pool:
            objects = list(pool.map(compile_level, levels))
        linked = f"{folder}/{library.name}"
        flags = [*COMMON, *extra, "-shared", "-pthread", str(SOURCES / "api.cpp")]
        flags += [f"-DHAS_{level}" for level in levels]
        flags += [] if extra else ["-s"]  # without symbols, unless somebody looks for an error
        _run([*compiler, *flags, *objects, "-o", linked])
        os.replace(linked, library)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def main() -> int:
    """Builds the library of this environment, unless it is there."""
    library = environment_library()
    if library.exists():
        return 0
    compiler = find_compiler()
    if compiler is None:
        print(
            "no C++ compiler found (c++, g++, clang++, or the package ziglang), so the native "
            "executor is not built; everything else works",
            file=sys.stderr,
        )
        return 0
    possible = levels_of(platform.machine())
    levels = known_levels(compiler, possible)
    if levels != possible:
        left_out = ", ".join(level for level in possible if level not in levels)
        print(f"{' '.join(compiler)} does not know these levels: {left_out}", file=sys.stderr)
    try:
        build(library, compiler, levels=levels)
        for old in set(library.parent.glob("libskiprec-*.so")) - {library}:
            old.unlink()  # of other sources; a process that has loaded it keeps it
    except subprocess.CalledProcessError as error:
        print(
            f"the native executor is not built, because the compiler failed; everything else "
            f"works:\n{' '.join(error.cmd)}\n{error.stderr[-2000:]}",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
