"""The plan of a run, its schedules, and early stopping."""

import itertools
import math

import pytest

from skiprec.config.training import TrainingConfig
from skiprec.policy.gumbel.options import Options as GumbelOptions
from skiprec.policy.reinforce.options import Options as ReinforceOptions
from skiprec.policy.training import policy_training
from skiprec.training.plan import StepPlan, lr_factor, make_plan, progress_at
from skiprec.training.state import TrainState
from tests.testkit.networks import build_network, run_config


def test_warm_up_rises_linearly_to_one() -> None:
    training = TrainingConfig(warmup_steps=4)
    factors = [lr_factor(training, step, 100) for step in range(5)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_the_cosine_falls_from_one_to_the_final_fraction() -> None:
    training = TrainingConfig(warmup_steps=10, final_lr_frac=0.1)
    factors = [lr_factor(training, step, 111) for step in range(10, 111)]
    assert factors[0] == 1.0
    assert factors[50] == pytest.approx(0.55)
    assert factors[100] == pytest.approx(0.1), "the last step that is taken"
    assert all(a >= b for a, b in itertools.pairwise(factors))
    assert lr_factor(training, 500, 110) == pytest.approx(0.1), "it stays there"


def test_the_rate_is_constant_by_default() -> None:
    assert {lr_factor(TrainingConfig(), step, 50) for step in range(50)} == {1.0}


def test_the_temperature_falls_geometrically_from_start_to_end() -> None:
    policy = GumbelOptions(temperature_start=8.0, temperature_end=0.5)
    actual = [policy.temperature(progress_at(step, 5)) for step in range(5)]
    assert actual == pytest.approx([8.0, 4.0, 2.0, 1.0, 0.5])
    assert policy.temperature(progress_at(0, 1)) == 8.0


def step_scalars(kind: str, progress: float, **options: float) -> dict[str, float]:
    config = run_config(kind, **{f"policy__{name}": value for name, value in options.items()})
    training = policy_training(config, build_network(config.model, config.policy))
    return training.step_scalars(progress)


@pytest.mark.parametrize("kind", ["none", "keep_all"])
def test_a_policy_without_temperature_logs_none(kind: str) -> None:
    assert step_scalars(kind, 0.3) == {}
    assert step_scalars("gumbel", 0.0) == {"policy/temperature": 2.0}


def test_the_budget_grows_to_its_weight_over_its_warm_up() -> None:
    policy = GumbelOptions(target_keep_frac=0.5, budget_weight=1.0, budget_warmup_frac=0.25)
    actual = [policy.budget_ramp(progress) for progress in (0.0, 0.0625, 0.125, 0.25, 0.7, 1.0)]
    assert actual == [0.0, 0.25, 0.5, 1.0, 1.0, 1.0]
    assert GumbelOptions(target_keep_frac=0.5, budget_weight=1.0).budget_ramp(0.0) == 1.0


def test_blocks_become_free_one_by_one_and_all_of_them_in_time() -> None:
    policy = ReinforceOptions(free_blocks_frac=0.5)
    steps = [policy.num_free_blocks(4, progress_at(step, 17)) for step in range(17)]
    assert steps == [1, 1, 1, 2, 2, 3, 3, 4, 4, *[4] * 8]
    assert policy.num_free_blocks(128, 1.0) == 128
    assert ReinforceOptions().num_free_blocks(4, 0.0) == 4, "without it, all from the start"
    assert step_scalars("reinforce", 0.25, free_blocks_frac=0.5) == {"policy/free_blocks": 2.0}
    assert step_scalars("reinforce", 0.25) == {}


def test_a_plan_covers_the_epochs_in_whole_steps() -> None:
    training = TrainingConfig(epochs=2, global_batch_rows=32)
    assert make_plan(training, 320).total_steps == 20
    assert make_plan(training, 321).total_steps == math.ceil(2 * 321 / 32)
    assert make_plan(TrainingConfig(epochs=0.001), 10).total_steps == 1


def test_logs_validations_and_checkpoints_by_step() -> None:
    plan = StepPlan(total_steps=10, log_every=4, validate_every=5, checkpoint_every=3)
    steps = range(1, 11)
    assert [step for step in steps if plan.logs(step)] == [1, 3, 4, 5, 6, 8, 9, 10]
    assert [step for step in steps if plan.validates(step)] == [5, 10]
    assert [step for step in steps if plan.checkpoints(step)] == [3, 5, 6, 9, 10]
    bare = StepPlan(total_steps=10, log_every=100, validate_every=None, checkpoint_every=None)
    assert [step for step in steps if bare.logs(step)] == [1, 10]
    assert [step for step in steps if bare.validates(step)] == [10]
    assert [step for step in steps if bare.checkpoints(step)] == [10]


def states(metrics: list[float], patience: int | None) -> list[TrainState]:
    state, seen = TrainState(), []
    for metric in metrics:
        state = state.advanced(10).validated(metric, patience)
        seen.append(state)
    return seen


def test_the_best_step_is_the_first_of_the_best() -> None:
    last = states([0.1, 0.3, 0.3, 0.2], None)[-1]
    assert (last.best_step, last.best_metric) == (2, 0.3)
    assert (last.step, last.samples, last.validations_without_gain) == (4, 40, 2)
    assert not last.stopped_early


def test_patience_counts_validations_without_a_gain_and_starts_anew_after_one() -> None:
    stopped = [s.stopped_early for s in states([0.3, 0.2, 0.4, 0.3, 0.4], patience=2)]
    assert stopped == [False, False, False, False, True]


def test_a_metric_that_is_not_a_number_is_no_gain() -> None:
    last = states([0.1, math.nan], patience=1)[-1]
    assert last.best_step == 1
    assert last.stopped_early


def test_a_state_survives_its_file() -> None:
    state = states([0.1, 0.05], 3)[-1]
    assert TrainState.model_validate_json(state.model_dump_json()) == state
