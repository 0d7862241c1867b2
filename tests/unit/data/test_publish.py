"""A dataset folder is there in full or not at all, whatever happens to the process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skiprec.data.ingest.publish import publishing

ROOT = Path(__file__).parents[3]

# Fills the folder and waits to be killed; "ready" says that it is in the middle.
HALF = """
import sys, time
from pathlib import Path
from skiprec.data.ingest.publish import publishing
with publishing(Path(sys.argv[1])) as folder:
    (folder / "scratch").mkdir()
    (folder / "train-00000.arrow").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_the_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    output = tmp_path / "a" / "out"
    with publishing(output) as folder:
        (folder / "x").write_text("1")
        assert not output.exists()
    assert [path.name for path in output.iterdir()] == ["x"]
    assert list(output.parent.iterdir()) == [output]


def test_a_killed_build_leaves_no_dataset_and_the_next_one_clears_up(tmp_path: Path) -> None:
    output = tmp_path / "out"
    child = subprocess.Popen(
        [sys.executable, "-c", HALF, str(output)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    with pytest.raises(ValueError, match="another process is building"), publishing(output):
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not output.exists()
    with publishing(output) as folder:
        assert list(folder.iterdir()) == []
        (folder / "x").write_text("1")
    assert list(tmp_path.iterdir()) == [output]


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file" / "out", Path("/proc/shop")):
        with pytest.raises(ValueError, match=rf"{output} cannot be created .*may write"):
            with publishing(output):
                pass


def test_whoever_comes_second_does_not_replace_the_first(tmp_path: Path) -> None:
    output = tmp_path / "out"

    def build_while_another_finishes() -> None:
        with publishing(output):
            output.mkdir()
            (output / "of another").write_text("1")

    with pytest.raises(ValueError, match="already exists"):
        build_while_another_finishes()
    assert [path.name for path in output.iterdir()] == ["of another"]
    assert list(tmp_path.iterdir()) == [output]
