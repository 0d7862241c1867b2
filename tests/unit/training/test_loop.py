"""The training loop: its calls, its lines in the log, and its end."""

from pathlib import Path

import pytest
import torch

from skiprec.config.run import RunConfig
from skiprec.training.collectives import SingleProcess
from skiprec.training.engine import TorchEngine
from skiprec.training.loop import Request, agreed
from skiprec.training.state import TrainState
from skiprec.types import Batch
from tests.testkit.networks import NUM_BLOCKS, POLICY_NAMES, random_batch, run_config
from tests.testkit.steps import MemoryReader, Run, make_engine

BUDGET = {"policy__target_keep_frac": 0.2, "policy__budget_weight": 3.0}
EVERY_STEP = {"training__log_every_steps": 1}


class SameRows:
    def micro_batches(self, step: int) -> list[Batch]:
        return [random_batch(12, seed=1)]


@pytest.mark.parametrize("policy", ["none", *POLICY_NAMES])
def test_the_loss_falls_on_rows_that_repeat(policy: str) -> None:
    config = run_config(policy, training__learning_rate=0.03, **EVERY_STEP)
    run = Run(config, total_steps=25)
    run.go(reader=SameRows())
    losses = run.sink.values("train/loss")
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("policy", ["none", "gumbel", "reinforce", "cost"])
def test_accumulation_gives_the_same_loss_curve(policy: str) -> None:
    curves = {}
    for micro in (None, 5, 1):
        options = BUDGET if policy == "gumbel" else {}
        config = run_config(
            policy, training__micro_batch_rows=micro, model__dropout=0.1, **EVERY_STEP, **options
        )
        run = Run(config, total_steps=6)
        run.go()
        curves[micro] = run.sink.values("train/loss")
    assert curves[5] == pytest.approx(curves[None], rel=1e-4)
    assert curves[1] == pytest.approx(curves[None], rel=1e-4)
    other = Run(config, total_steps=6)
    other.go(make_engine(config, seed=1))
    assert other.sink.values("train/loss") != pytest.approx(curves[None], rel=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_goes_on_bit_for_bit(tmp_path: Path, precision: str) -> None:
    config = run_config(
        "gumbel",
        model__dropout=0.2,
        training__warmup_steps=3,
        training__final_lr_frac=0.1,
        training__precision=precision,
        training__checkpoint_every_steps=1,
        **EVERY_STEP,
    )
    whole = Run(config, total_steps=9)
    engine = make_engine(config)
    last = whole.go(engine)

    first, half = Run(config, total_steps=9), make_engine(config)
    first_half = _stop_at(first, half, 4)
    half.save(tmp_path)
    rest, fresh = Run(config, total_steps=9), make_engine(config, seed=1)
    fresh.load(tmp_path, half.network_weights())
    assert rest.go(fresh, first_half) == last
    assert rest.sink.values("train/loss") == whole.sink.values("train/loss")[4:]
    ended, resumed = engine.network_weights(), fresh.network_weights()
    assert all(torch.equal(ended[name], resumed[name]) for name in ended)

    without_state = Run(config, total_steps=9)
    without_state.go(make_engine(config, seed=1), first_half)
    assert without_state.sink.values("train/loss") != rest.sink.values("train/loss")


class StoppedError(Exception):
    pass


def _stop_at(run: Run, engine: TorchEngine, step: int) -> TrainState:
    """The plan stays the same, because the schedules depend on its length."""

    def save(state: TrainState) -> None:
        if state.step == step:
            reached.append(state)
            raise StoppedError

    reached: list[TrainState] = []
    run.save = save  # type: ignore[method-assign]
    with pytest.raises(StoppedError):
        run.go(engine)
    return reached[0]


def test_things_happen_at_the_steps_of_the_plan() -> None:
    config = run_config(
        "gumbel",
        training__log_every_steps=4,
        training__validate_every_steps=5,
        training__checkpoint_every_steps=3,
    )
    run = Run(config, total_steps=10, metrics=(0.2, 0.1))
    state = run.go()
    assert run.sink.steps("train/loss") == [1, 3, 4, 5, 6, 8, 9, 10]
    assert run.sink.steps("validation/mrr@20") == run.sink.pictures == [5, 10]
    assert run.saved == [(3, False), (5, True), (6, False), (9, False), (10, False)]
    assert (state.step, state.samples) == (10, 120)
    assert (state.best_step, state.best_metric) == (5, 0.2)


def test_a_run_without_a_policy_draws_no_decisions() -> None:
    run = Run(run_config(), total_steps=2)
    run.go()
    assert run.sink.pictures == []
    assert run.sink.steps("policy/sampled_keep_frac") == []


def test_early_stopping_ends_the_run_with_a_checkpoint() -> None:
    config = run_config(training__validate_every_steps=2, training__patience=2)
    run = Run(config, total_steps=100, metrics=(0.3, 0.2, 0.25, 0.1))
    state = run.go()
    assert state.stopped_early
    assert (state.step, state.best_step) == (6, 2)
    assert run.saved == [(2, True), (4, False), (6, False)]
    again = Run(config, total_steps=100)
    assert again.go(state=state) == state, "a stopped run stays stopped"
    assert again.saved == []


def test_a_request_is_seen_at_the_next_line_and_saved() -> None:
    config = run_config("gumbel", training__log_every_steps=4)
    run = Run(config, total_steps=20, metrics=(0.2,), requests={8: Request.SAVE, 12: Request.STOP})
    state = run.go()
    assert [step for step, _ in run.saved] == [8, 12]
    assert (state.step, state.stopped_early) == (12, False)
    whole = Run(config, total_steps=20, metrics=(0.2,))
    whole.go()
    assert [step for step, _ in whole.saved] == [20], "control: without a request nothing is saved"
    assert run.sink.values("train/loss") == whole.sink.values("train/loss")[:4]


def test_the_largest_request_of_any_rank_counts() -> None:
    class Two(SingleProcess):
        """Rank 1 asks for a save."""

        def sum(self, value: torch.Tensor) -> torch.Tensor:
            other = torch.zeros_like(value)
            other[Request.SAVE] = 1
            return value + other

    cpu = torch.device("cpu")
    assert agreed(Request.NONE, SingleProcess(), cpu) == Request.NONE
    assert agreed(Request.NONE, Two(), cpu) == Request.SAVE
    assert agreed(Request.STOP, Two(), cpu) == Request.STOP


def test_a_log_line_is_the_mean_over_its_window_by_targets() -> None:
    config = run_config(training__learning_rate=1e-12)  # the weights do not change
    every = Run(run_config(training__learning_rate=1e-12, **EVERY_STEP), total_steps=6)
    every.go()
    window = Run(
        run_config(training__learning_rate=1e-12, training__log_every_steps=6), total_steps=6
    )
    window.go()
    reader = MemoryReader(config.training.global_batch_rows)
    targets = [int(reader.micro_batches(step)[0].is_scored_BT.sum()) for step in range(6)]
    losses = every.sink.values("train/loss")
    expected = sum(t * loss for t, loss in zip(targets[1:], losses[1:], strict=True))
    # The first step has a line of its own.
    assert window.sink.values("train/loss")[1] == pytest.approx(expected / sum(targets[1:]))


def test_the_line_says_what_was_kept_and_at_which_settings() -> None:
    config = run_config(
        "gumbel",
        training__warmup_steps=1,
        training__learning_rate=0.004,
        training__policy_learning_rate=0.01,
        **EVERY_STEP,
        **BUDGET,
    )
    run = Run(config, total_steps=3)
    run.go()
    for _, line in run.sink.lines:
        if "train/loss" not in line:
            continue
        kept = line["policy/sampled_keep_frac"]
        assert 0 < kept < 1
        assert kept * 12 * NUM_BLOCKS == pytest.approx(round(kept * 12 * NUM_BLOCKS))
        assert line["train/budget"] == pytest.approx(3.0 * (kept - 0.2) ** 2)
        assert line["progress/steps_total"] == 3
    assert run.sink.values("lr/backbone")[0] == pytest.approx(0.002)
    assert run.sink.values("lr/policy")[0] == pytest.approx(0.005)
    assert run.sink.values("policy/temperature") == pytest.approx([2.0, 1.0, 0.5])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            run_config("reinforce", policy__free_blocks_frac=0.5, **EVERY_STEP),
            {"train/reward_sampled", "train/reward_greedy", "train/advantage_abs"}
            | {"policy/free_blocks", "policy/sampled_keep_frac"},
        ),
        (
            run_config("cost", **EVERY_STEP),
            {"train/cost_error", "train/cost_of_smallest", "policy/sampled_keep_frac"},
        ),
        (
            run_config("gumbel", policy__guide_weight=0.1, **EVERY_STEP),
            {"train/guide_easy_frac", "policy/temperature", "policy/sampled_keep_frac"},
        ),
        (run_config(loss__last_position_weight=0.5, **EVERY_STEP), {"train/last_cross_entropy"}),
    ],
    ids=["reinforce", "cost", "guide", "last position"],
)
def test_each_kind_says_how_its_terms_stand(config: RunConfig, expected: set[str]) -> None:
    """The numbers are means over rows, so they do not depend on the number of passes."""
    whole, split = Run(config, total_steps=3), Run(_in_passes_of(config, 5), total_steps=3)
    whole.go()
    split.go()
    plain = Run(run_config(**EVERY_STEP), total_steps=3)
    plain.go()
    for name in expected:
        assert len(whole.sink.values(name)) == 3
        assert split.sink.values(name) == pytest.approx(whole.sink.values(name), rel=1e-3)
        assert plain.sink.values(name) == []


def _in_passes_of(config: RunConfig, rows: int) -> RunConfig:
    training = config.training.model_copy(update={"micro_batch_rows": rows})
    return config.model_copy(update={"training": training})


def test_times_come_from_the_clock_that_is_handed_in() -> None:
    run = Run(run_config(training__log_every_steps=5), total_steps=10)
    run.go()
    assert all(rate > 0 for rate in run.sink.values("time/samples_per_s"))
    assert run.sink.values("time/data_wait_s") == [1.0, 1.0, 1.0]  # one tick of the clock
    assert run.sink.values("time/step_s") == [2.0, 2.0, 2.0]
    assert run.sink.values("progress/left_s")[-1] == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run(value: float) -> None:
    config = run_config(**EVERY_STEP)
    engine = make_engine(config)
    with torch.no_grad():
        engine.objective.network.head.bias_V[3] = value
    run = Run(config, total_steps=3)
    with pytest.raises(FloatingPointError, match="step 1: loss"):
        run.go(engine)
    assert run.saved == [], "a broken state is not saved"


def test_what_is_not_finite_is_seen_before_it_is_saved_however_rare_the_lines() -> None:
    config = run_config(training__log_every_steps=20, training__checkpoint_every_steps=3)
    engine = make_engine(config)
    run = Run(config, total_steps=30)

    def break_it(state: TrainState) -> None:
        run.saved.append((state.step, False))
        with torch.no_grad():
            engine.objective.network.head.bias_V[3] = float("nan")

    run.save = break_it  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError, match="step 6: loss"):
        run.go(engine)
    assert [step for step, _ in run.saved] == [3]
