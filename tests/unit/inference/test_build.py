"""Compiling the native library with a compiler that is too old for some instructions."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from skiprec.inference.native import build
from skiprec.inference.native.library import bf16_levels, levels


@pytest.fixture
def old_compiler(tmp_path: Path) -> list[str]:
    """The system's compiler behind a script that refuses the flags GCC 10 does not know."""
    compiler = build.find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler")
    script = tmp_path / "old-c++"
    command = " ".join([shutil.which(compiler[0]) or compiler[0], *compiler[1:]])
    script.write_text(
        '#!/bin/sh\ncase " $* " in\n'
        '  *" -mavx512bf16 "*|*" -mamx-"*) echo "unrecognized option" >&2; exit 1;;\nesac\n'
        f'exec {command} "$@"\n'
    )
    script.chmod(0o755)
    return [str(script)]


def test_a_compiler_that_does_not_know_bf16_knows_the_other_levels(
    old_compiler: list[str],
) -> None:
    possible = build.levels_of(platform.machine())
    known = build.known_levels(old_compiler, possible)
    assert known == [level for level in possible if "bf16" not in level]


@pytest.mark.slow
def test_it_builds_a_library_of_those(old_compiler: list[str], tmp_path: Path) -> None:
    known = build.known_levels(old_compiler, build.levels_of(platform.machine()))
    library = tmp_path / "libskiprec.so"
    build.build(library, old_compiler, levels=known[:2])
    assert "generic" in levels(library)
    assert bf16_levels(library) == []


def test_an_error_in_the_source_of_a_level_is_an_error(
    old_compiler: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "src"
    shutil.copytree(build.SOURCES, broken)
    (broken / "matmul.h").write_text("#error broken\n")
    monkeypatch.setattr(build, "SOURCES", broken)
    with pytest.raises(subprocess.CalledProcessError) as found:
        build.build(tmp_path / "libskiprec.so", old_compiler, levels=["generic"])
    assert "broken" in found.value.stderr
    assert not (tmp_path / "libskiprec.so").exists()
