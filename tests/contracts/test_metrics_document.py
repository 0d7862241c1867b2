"""docs/metrics.md and the log agree: every number that a run logs is explained, and the reverse."""

import json
import re

import pytest

from tests.testkit.repository import ROOT
from tests.testkit.runs import build_smoke_data, smoke_config, train_here

LAST = "loss.last_position_weight=1"
RUNS = {
    "gumbel": (LAST, "policy.guide_weight=0.1", "training.policy_learning_rate=1e-2"),
    "gumbel_shared": ("policy.budget=shared", "policy.budget_weight=0.05"),
    "reinforce": (
        "policy={kind='reinforce', width=8, free_blocks_frac=0.5}",
        "training.execution=gathered",
    ),
    "exits": ("policy={kind='none'}", "training.execution=dense", "model.exits=[1, 4]"),
    "cost": ("policy={kind='cost', width=8, nest_sizes=[2]}", "training.execution=gathered"),
}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    root = tmp_path_factory.mktemp("runs")
    data = build_smoke_data(root)
    names: set[str] = set()
    for name, overrides in RUNS.items():
        config = smoke_config(root, data, "training.engine=torch", f"name={name}", *overrides)
        train_here(config)
        lines = (config.folder / "metrics.jsonl").read_text().splitlines()
        keys = {key for line in lines for key in json.loads(line)}
        names |= {re.sub(r"/\d{3}(_|$)", r"/000\1", key) for key in keys}
    return names - {"step"}


def explained() -> set[str]:
    """The names in the first column of the two tables about training."""
    text = (ROOT / "docs/metrics.md").read_text()
    training = text[text.index("## While training") : text.index("## Ranks and accuracy")]
    names = set()
    for line in training.splitlines():
        if line.startswith("| `"):
            cell = re.findall(r"`([^`]+)`", line.split("|")[1])
            section = cell[0].split("/")[0]
            names |= {name if "/" in name else f"{section}/{name}" for name in cell}
    return {name for name in names if not re.fullmatch(r"\w+/\d+", name) or name.endswith("/000")}


TENSORBOARD_ONLY = {"policy/blocks_by_users", "policy/kept_blocks"}
IN_THE_TEXT = {"time/save_s"}


def test_every_logged_number_is_explained(logged: set[str]) -> None:
    assert logged - explained() <= IN_THE_TEXT


def test_every_explained_number_is_logged(logged: set[str]) -> None:
    assert explained() - logged == TENSORBOARD_ONLY
