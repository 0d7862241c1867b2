"""The environment check lists all components and reports problems."""

import json
import time
from pathlib import Path

import pytest

from cluster.machine import environment
from skiprec.models.registry import BACKBONES, BASELINES
from skiprec.policy.encoders import ENCODERS
from skiprec.policy.kinds import KINDS, NO_POLICY
from tests.testkit.runs import REPOSITORY


def test_components_are_the_registries(capsys: pytest.CaptureFixture[str]) -> None:
    assert environment.main(as_json=True, repository=REPOSITORY) == 0
    listed = json.loads(capsys.readouterr().out)
    assert set(listed["backbones"]) == set(BACKBONES) >= {"nextitnet_plus", "sasrec_plus"}
    assert set(listed["baselines"]) == set(BASELINES) >= {"nfm", "gru4rec", "caser"}
    assert set(listed["policies"]) == set(KINDS) - {NO_POLICY} >= {"gumbel", "reinforce", "cost"}
    assert set(listed["encoders"]) == set(ENCODERS) >= {"conv", "gru", "attention"}
    assert {"shuffled", "oracle", "fixed", "random"} <= set(listed["evaluation_arms"])
    assert "synthetic_smoke" in listed["recipes"]
    assert "main" in listed["studies"]
    assert {"train_rl", "train_cost", "measure_headroom", "run_study"} <= set(listed["jobs"])


def test_a_stale_lock_is_found_and_a_build_at_work_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(environment.psutil, "process_iter", lambda _: [])
    assert environment.stale_locks() == []
    lock = tmp_path / "py311_cpu/deepspeed_shm_comm/lock"
    lock.parent.mkdir(parents=True)
    lock.write_text(str(time.time()))
    assert environment.stale_locks() == [lock]
    assert any("wait for it for ever" in text for text in environment.problems())


def test_a_missing_package_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no-such-package"))
    assert any("no-such-package is not installed" in text for text in environment.problems())
