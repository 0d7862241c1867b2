"""Did the numbers move? A change that is meant to move them regenerates the files in tests/golden
with the command in their first line, and says so."""

import pytest

from skiprec.models.registry import BASELINES
from tests.numerics.golden_run import GOLDEN, GOLDEN_CONFIGS, STEPS, golden_losses, read_golden

# Relative. Some compute a part in float32, where processors differ in the last bits.
IN_FLOAT32 = ("gumbel", "gumbel_shared", "reinforce", "cost", "sampled_softmax", *BASELINES)
TOLERANCE = dict.fromkeys(GOLDEN_CONFIGS, 1e-9) | dict.fromkeys(IN_FLOAT32, 1e-6)


@pytest.mark.parametrize("name", GOLDEN_CONFIGS)
def test_losses_are_those_of_the_golden_file(name: str) -> None:
    expected = read_golden(name)
    assert len(expected) == STEPS
    assert golden_losses(GOLDEN_CONFIGS[name]) == pytest.approx(expected, rel=TOLERANCE[name])


@pytest.mark.parametrize("name", GOLDEN_CONFIGS)
def test_another_seed_has_other_losses(name: str) -> None:
    """The control: the tolerance is far below what a change moves."""
    found = golden_losses(GOLDEN_CONFIGS[name], seed=1)
    expected = read_golden(name)
    differences = [abs(a - b) / b for a, b in zip(found, expected, strict=True)]
    assert min(differences) > 10 * TOLERANCE[name]


def test_runs_differ_from_each_other() -> None:
    last = {round(read_golden(name)[-1], 9) for name in GOLDEN_CONFIGS}
    assert len(last) == len(GOLDEN_CONFIGS)


def test_every_golden_file_belongs_to_a_run_and_tells_its_command() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(GOLDEN_CONFIGS)
    for name in GOLDEN_CONFIGS:
        first = (GOLDEN / f"{name}.txt").read_text().splitlines()[0]
        assert first.endswith(
            f"python -m tests.numerics.golden_run {name} > tests/golden/{name}.txt"
        )
