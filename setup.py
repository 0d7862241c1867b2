"""Compiles the native executor into a wheel; everything else is in pyproject.toml.

An editable installation compiles nothing here: `make install` compiles into the environment.
"""

import sys
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithLibrary(build_py):
    """Copies the modules and compiles the library beside them."""

    def run(self) -> None:
        """See setuptools."""
        super().run()
        if self.editable_mode:
            return
        sys.path.insert(0, str(ROOT))
        from skiprec.inference.native.build import build, find_compiler
        from skiprec.inference.native.places import WHEEL_LIBRARY

        compiler = find_compiler()
        if compiler is None:
            raise SystemExit(
                "a wheel of skiprec holds a compiled library, and no C++ compiler is found (c++, "
                "g++, clang++, or the package ziglang); install one"
            )
        build(Path(self.build_lib).resolve() / WHEEL_LIBRARY.relative_to(ROOT), compiler)


class PlatformWheel(bdist_wheel):
    """A wheel for any Python of this platform: the library is called through ctypes."""

    def finalize_options(self) -> None:
        """See setuptools."""
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[Any, ...]:
        """The tag of the file's name."""
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": PlatformWheel})
