"""Run names: a run that is alive is refused, a dead one resumed, changed keys are named."""

import json
import os
import time
from pathlib import Path

import pytest

from cluster.runs import folder as run_folder
from cluster.runs.folder import (
    DEAD_AFTER_S,
    REPOSITORY,
    git_commit,
    lease,
    open_run,
    refuse_without_lease,
)
from skiprec.config.files import parse_config
from skiprec.config.run import RunConfig


def run(root: Path, **training: object) -> RunConfig:
    tree = {"name": "r", "root": str(root), "data": {"path": "d"}, "training": training}
    return parse_config(tree, "test")


def write_lease(config: RunConfig, **holder: object) -> Path:
    config.folder.mkdir(parents=True, exist_ok=True)
    path = config.folder / "lease.json"
    path.write_text(json.dumps(holder))
    return path


def test_a_second_start_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    config = run(tmp_path)
    with lease(config), pytest.raises(ValueError, match="is alive"), lease(config):
        pass
    with lease(config):  # The first start has ended.
        pass


def test_a_dead_process_of_this_machine_is_taken_over(tmp_path: Path) -> None:
    config = run(tmp_path)
    gone = {"pid": 2**22 + 1, "process_started": 0.0, "token": "old"}
    write_lease(config, host=os.uname().nodename, **gone)
    with lease(config) as token:
        assert token != "old"


def test_a_reused_process_number_is_not_the_holder(tmp_path: Path) -> None:
    config = run(tmp_path)
    write_lease(config, host=os.uname().nodename, pid=os.getpid(), process_started=1.0, token="old")
    with lease(config):
        pass


def test_another_machine_is_judged_by_its_heartbeat(tmp_path: Path) -> None:
    config = run(tmp_path)
    path = write_lease(config, host="elsewhere", pid=1, process_started=0.0, token="old")
    with pytest.raises(ValueError, match="elsewhere"), lease(config):
        pass
    long_ago = time.time() - 2 * DEAD_AFTER_S
    os.utime(path, (long_ago, long_ago))
    with lease(config):
        pass


def test_one_that_was_thought_dead_leaves_its_successor_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "HEARTBEAT_S", 0.01)
    config = run(tmp_path)
    with lease(config):
        path = write_lease(config, host="elsewhere", token="successor")
        os.utime(path, (1.0, 1.0))
        time.sleep(0.1)
        assert path.stat().st_mtime == 1.0, "no heartbeat of ours on its lease"
    assert json.loads(path.read_text())["token"] == "successor"


def test_of_two_that_find_a_dead_lease_one_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other start takes the lease a moment before this one renames the dead lease."""
    config = run(tmp_path)
    path = write_lease(config, host="elsewhere", pid=1, token="dead")
    os.utime(path, (1.0, 1.0))
    rename = Path.rename

    def after_the_other(self: Path, target: Path) -> Path:
        if self == path:
            write_lease(config, host="elsewhere", pid=2, token="other")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", after_the_other)
    with pytest.raises(ValueError, match="process 2 on elsewhere"), lease(config):
        pass
    assert json.loads(path.read_text())["token"] == "other"


def test_a_worker_whose_driver_lost_the_run_publishes_nothing(tmp_path: Path) -> None:
    config = run(tmp_path)
    with lease(config) as token:
        refuse_without_lease(config, token)
        with pytest.raises(RuntimeError, match="no longer holds"):
            refuse_without_lease(config, "another")
    with pytest.raises(RuntimeError, match="no longer holds"):
        refuse_without_lease(config, token)


def test_a_changed_configuration_names_its_keys(tmp_path: Path) -> None:
    assert open_run(run(tmp_path)) is None
    assert open_run(run(tmp_path)) is None
    with pytest.raises(ValueError, match=r"training\.seed: 0 -> 3"):
        open_run(run(tmp_path, seed=3))


def test_a_root_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", Path("/proc/shop")):
        config = run(root)
        for start in (open_run, lambda config: lease(config).__enter__()):
            with pytest.raises(ValueError, match=rf"{root}.*cannot be created .*--set root="):
                start(config)


def test_a_finished_run_gives_its_result(tmp_path: Path) -> None:
    config = run(tmp_path)
    open_run(config)
    (config.folder / "result.json").write_text('{"steps": 5}')
    assert open_run(config) == {"steps": 5}


def test_the_commit_is_that_of_the_repository(tmp_path: Path) -> None:
    assert (REPOSITORY / "pyproject.toml").exists()
    assert git_commit(tmp_path) is None, "no checkout"
    git = tmp_path / ".git"
    git.mkdir()
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert git_commit(tmp_path) is None, "a branch without a commit"
    (git / "packed-refs").write_text("# pack-refs\na1 refs/heads/other\nb2 refs/heads/main\n")
    assert git_commit(tmp_path) == "b2"
    (git / "refs/heads").mkdir(parents=True)
    (git / "refs/heads/main").write_text("c3\n")
    assert git_commit(tmp_path) == "c3"
    (git / "HEAD").write_text("d4\n")
    assert git_commit(tmp_path) == "d4", "a detached head"


def test_the_commit_of_a_worktree_is_that_of_its_own_branch(tmp_path: Path) -> None:
    git, own = tmp_path / "first/.git", tmp_path / "first/.git/worktrees/second"
    (git / "refs/heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "refs/heads/main").write_text("a1\n")
    (git / "refs/heads/other").write_text("b2\n")
    own.mkdir(parents=True)
    (own / "HEAD").write_text("ref: refs/heads/other\n")
    (own / "commondir").write_text("../..\n")
    (tmp_path / "second").mkdir()
    (tmp_path / "second/.git").write_text(f"gitdir: {own}\n")
    assert git_commit(tmp_path / "second") == "b2"
    assert git_commit(tmp_path / "first") == "a1"
