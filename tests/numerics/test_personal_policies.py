"""On users who are easy or hard by construction, a policy has to find out which is which.

The runs are those of `jobs/run_study.py --study synthetic` with half of the blocks, of the users
and of the rows of a step, here without Ray. Run with `-s` to see the numbers.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from cluster.runs.folder import open_run
from skiprec.checkpoints.network import load_network
from skiprec.config.files import load_config
from skiprec.config.run import RunConfig
from skiprec.data.batching import evenly_spaced_rows
from skiprec.data.ingest import build_dataset, load_recipe
from skiprec.data.shards import ShardSet
from skiprec.evaluation.measure.arms import ALL_BLOCKS, SHUFFLED, SKIPREC, Arm, arms_of
from skiprec.evaluation.measure.intervals import UserBootstrap, interval
from skiprec.evaluation.measure.scoring import decide_unit, score_arms
from skiprec.evaluation.measure.tiles import read_tiles
from tests.testkit.runs import REPOSITORY, train_here

CONFIGS = REPOSITORY / "jobs/configs/synthetic"
NUM_BLOCKS = 4
# The study keeps a fifth of 8 blocks, which is two fifths here.
POLICIES = {
    "gumbel_pre": ("policy.target_keep_frac=0.4",),
    "rl_pre": (),
    "cost_pre": ("policy.target_keep_frac=0.4", "policy.nest_sizes=[1, 2, 3]"),
}

Doubles = NDArray[np.float64]


@dataclass
class Outcome:
    """Of the test rows: whether its user is hard, blocks kept, reciprocal ranks within 20."""

    user_R: NDArray[np.int32]
    is_hard_R: NDArray[np.bool_]
    kept_R: Doubles
    served_R: Doubles
    shuffled_R: Doubles

    def mean(self, value_R: Doubles) -> tuple[float, list[float]]:
        """Mean and 95 % interval over users."""
        means_S1 = UserBootstrap(self.user_R).resampled_means(value_R[:, None])
        return float(value_R.mean()), interval(means_S1[:, 0])


def small_config(name: str, root: Path) -> RunConfig:
    places = (f"data.path={root / 'data'}", f"root={root / 'runs'}", "training.engine=torch")
    smaller = (f"model.num_blocks={NUM_BLOCKS}", "training.global_batch_rows=64")
    smaller += POLICIES.get(name, ())
    return load_config(CONFIGS / f"{name}.toml", (*places, *smaller))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data and the backbone that every policy starts from."""
    folder = tmp_path_factory.mktemp("personal")
    recipe = load_recipe(REPOSITORY / "datasets/recipes/synthetic.toml")
    fewer = recipe.source.model_copy(update={"num_users": 10_000})
    recipe = recipe.model_copy(update={"source": fewer})
    build_dataset(recipe, [], folder / "data", progress=lambda _: None)
    train("backbone", folder)
    return folder


def train(name: str, root: Path) -> RunConfig:
    config = small_config(name, root)
    open_run(config)
    train_here(config)
    return config


def outcome(config: RunConfig) -> Outcome:
    """Serves the run's best checkpoint to the test rows."""
    network = load_network(config.folder)[1]
    shards = ShardSet.open(Path(config.data.path), "test")
    row_R = evenly_spaced_rows(shards.num_rows, None)
    rows, tiles = read_tiles(shards, row_R)
    keep_RL = decide_unit(network, tiles).keep_RL
    made = arms_of(keep_RL, row_R)
    arms = {arm: made[arm] for arm in (ALL_BLOCKS, SKIPREC, SHUFFLED)}
    ranks = score_arms(network, tiles, arms, False)

    def reciprocal(arm: Arm) -> Doubles:
        rank_R = np.asarray(ranks[arm.rank_column], np.float64)
        return np.where(rank_R <= 20, 1 / rank_R, 0.0)

    users = pa.ipc.open_file(Path(config.data.path) / "users.arrow").read_all()
    is_hard_U = np.array(users.column("kind").to_pylist()) == "hard"
    return Outcome(
        rows.user_R,
        is_hard_U[rows.user_R],
        keep_RL.sum(1).astype(np.float64),
        reciprocal(SKIPREC),
        reciprocal(SHUFFLED),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", POLICIES)
def test_easy_users_keep_fewer_blocks_and_the_decisions_are_worth_it(name: str, root: Path) -> None:
    found = outcome(train(name, root))
    is_hard_R = found.is_hard_R
    centred_R = (is_hard_R - is_hard_R.mean()) / is_hard_R.var()
    more, more_interval = found.mean(found.kept_R * centred_R)
    gain, gain_interval = found.mean(found.served_R - found.shuffled_R)
    print(
        f"\n{name}: easy users keep {found.kept_R[~is_hard_R].mean():.2f} blocks, hard ones "
        f"{found.kept_R[is_hard_R].mean():.2f}; hard minus easy {more:+.2f} {more_interval}; "
        f"MRR@20 {found.served_R.mean():.4f}, minus shuffled {gain:+.4f} {gain_interval}"
    )
    assert more_interval[0] > 0.5
    assert gain_interval[0] > 0
