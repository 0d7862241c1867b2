"""The configuration of a sweep: the settings that are searched, the method and the budget.

A sweep is a TOML file, `jobs/configs/sweep_*.toml`. A key of `space` is a dotted key of the run's
configuration; its value is a list to choose from, or a range.
"""

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from skiprec.config.files import apply_overrides, parse_config
from skiprec.config.reading import explain, read_toml
from skiprec.config.run import RunConfig
from skiprec.config.section import Section
from skiprec.policy.kinds import OPTIONS

Objective = Literal["mrr@20", "flops_speedup"]
KIND = "policy.kind"


class Range(Section):
    """Numbers between two limits, for a key of a sweep's space."""

    low: float
    """Smallest value, in the unit of the searched key."""
    high: float
    """Largest value, in the unit of the searched key."""
    log: bool = False
    """Whether to draw uniformly in the logarithm of the value instead of in the value."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.low < self.high or (self.log and self.low <= 0):
            above_0 = ", above 0 with log" if self.log else ""
            raise ValueError(
                f"expected low < high{above_0}; found low={self.low}, high={self.high}"
            )
        return self


Value = bool | int | float | str
# A choice may be a list, such as sizes. Searchers know no lists, so they get it as text.
Choices = tuple[Value | tuple[Value, ...], ...]
Space = dict[str, Range | Choices]


class SweepConfig(Section):
    """One sweep. Each trial is a run named `<name>-<number>`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the sweep: of its folder under the runs' `root`, and the first part of its trials'
    names."""
    searcher: Literal["random", "optuna"] = "random"
    """How settings are chosen. random: drawn independently. optuna: proposed by Optuna from the
    results so far."""
    scheduler: Literal["asha", "pbt", "none"] = "asha"
    """What happens to trials that fall behind. asha: they are stopped early. pbt: they continue
    with the weights and perturbed settings of better trials. none: all trials are completed."""
    objectives: tuple[Objective, ...] = Field(("mrr@20",), min_length=1, max_length=2)
    """One or two quantities to maximise, measured on validation rows; two objectives need complete
    trials."""
    num_trials: int = Field(ge=1)
    """Number of trials."""
    concurrent_trials: int | None = Field(None, ge=1)
    """Number of trials that run at once; the sweep waits until the cluster has room for them. None:
    as many as there is room for when the sweep starts."""
    max_samples: int = Field(ge=1)
    """Training samples after which a trial ends, and over which its schedules run."""
    report_samples: int = Field(ge=1)
    """Training samples between two validations of a trial."""
    grace_samples: int | None = Field(None, ge=1)
    """Training samples before ASHA may stop a trial; required by `scheduler = "asha"` only."""
    reduction_factor: int = Field(3, ge=2)
    """Factor between the numbers of samples at which ASHA compares trials; about one trial in so
    many continues each time."""
    perturb_samples: int | None = Field(None, ge=1)
    """Training samples between two exchanges of PBT, in which the worse trials copy the better ones
    and perturb their settings; required by `scheduler = "pbt"` only."""
    seed: int = 0
    """Seed of the search; the seed of training is a key of the run's configuration."""
    space: Space = Field(default_factory=dict)
    """Keys that are searched for every kind of policy, each with a list of values or a range."""
    space_of: dict[str, Space] = Field(default_factory=dict)
    """Further keys for one kind of policy, `space_of.<kind>`; kinds without a configuration in the
    sweep's command are ignored."""

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives={list(self.objectives)} names one twice; remove one")
        if len(self.objectives) > 1 and self.scheduler != "none":
            raise ValueError(
                f"two objectives with scheduler={self.scheduler!r}, which ranks by one; "
                "use scheduler='none', so that trials are complete"
            )
        if self.scheduler == "pbt" and self.searcher != "random":
            raise ValueError("scheduler='pbt' makes its own suggestions; use searcher='random'")
        for option, scheduler in (("grace_samples", "asha"), ("perturb_samples", "pbt")):
            if (getattr(self, option) is not None) != (self.scheduler == scheduler):
                raise ValueError(
                    f"scheduler={self.scheduler!r} and {option}={getattr(self, option)}: "
                    f"scheduler='{scheduler}' needs {option}, no other has a use for it"
                )
        unknown = sorted(self.space_of.keys() - OPTIONS.keys())
        if unknown:
            raise ValueError(f"space_of.{unknown[0]}: expected one of {', '.join(OPTIONS)}")
        if not self.space and not any(self.space_of.values()):
            raise ValueError("space is empty; name the keys to search in [space] or [space_of.…]")
        if any(not values for values in self._all_spaces().values() if isinstance(values, tuple)):
            raise ValueError("a key of space has an empty list; name values to choose from")
        return self

    def within(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """The settings that PBT perturbed, clipped to the ranges of the space."""
        spaces = self._all_spaces()
        return {
            key: min(max(value, space.low), space.high)
            if isinstance(space := spaces.get(key), Range)
            else value
            for key, value in drawn.items()
        }

    def _all_spaces(self) -> Space:
        """All searched keys; a key of one kind of policy is named `<kind>:<key>`."""
        spaces = dict(self.space)
        for kind, space in self.space_of.items():
            spaces |= {f"{kind}:{key}": values for key, values in space.items()}
        return spaces

    def dimensions(self, kinds: list[str]) -> Space:
        """The space that a trial draws from, for these kinds of policy.

        With several kinds, the kind is a dimension, too.
        """
        choice: Space = {KIND: tuple(kinds)} if len(kinds) > 1 else {}
        spaces = self._all_spaces().items()
        return choice | {
            key: values if isinstance(values, Range) else tuple(map(_searchable, values))
            for key, values in spaces
            if ":" not in key or key.split(":")[0] in kinds
        }

    def setting(self, key: str, value: Any) -> str:
        """The override that gives a key of the configuration a drawn value."""
        choices = self._all_spaces().values()
        lists = {
            _searchable(choice)
            for values in choices
            if isinstance(values, tuple)
            for choice in values
            if isinstance(choice, tuple)
        }
        is_list = isinstance(value, str) and value in lists
        return f"{key}={value if is_list else json.dumps(value)}"


def _searchable(choice: Value | tuple[Value, ...]) -> Value:
    return json.dumps(choice) if isinstance(choice, tuple) else choice


def load_sweep(path: Path) -> SweepConfig:
    """Reads a sweep from a TOML file.

    Raises:
        ValueError: the file does not exist or is not a sweep.
    """
    try:
        return SweepConfig.model_validate(read_toml(path, "sweep", "jobs/configs (sweep_*.toml)"))
    except ValidationError as error:
        raise ValueError(f"{path}: " + "\n".join(explain(SweepConfig, error))) from None


def settings_of(drawn: dict[str, Any], kind: str) -> dict[str, Any]:
    """The drawn settings that apply to a kind of policy, by their keys in the configuration."""
    settings = {}
    for name, value in drawn.items():
        owner, colon, key = name.rpartition(":")
        if name != KIND and (not colon or owner == kind):
            settings[key] = value
    return settings


def trial_config(
    sweep: SweepConfig,
    trees: dict[str, dict[str, Any]],
    drawn: dict[str, Any],
    name: str,
    num_rows: dict[str | None, int],
) -> RunConfig:
    """The configuration of a trial's run.

    Args:
        trees: the base configuration for each kind of policy.
        drawn: a value for each dimension of the sweep.
        name: the name of the run.
        num_rows: number of rows that a trial is trained on, for each `training.fit_on` that a trial
            may have; epochs are counted in them.

    Raises:
        ValueError: the configuration with these settings is not valid.
    """
    kind = drawn.get(KIND) or next(iter(trees))
    settings = settings_of(drawn, kind)
    overrides = [sweep.setting(key, value) for key, value in settings.items()]
    tree = apply_overrides(trees[kind], [*overrides, f"name={json.dumps(name)}"])
    training = parse_config(tree, "the sweep").training
    rows = training.global_batch_rows
    # Budgets are in samples. The rows of a step may be searched, so steps follow from them.
    steps = max(1, sweep.max_samples // rows)
    budget = {
        "epochs": (steps - 0.5) * rows / num_rows[training.fit_on],
        "validate_every_steps": max(1, sweep.report_samples // rows),
        "checkpoint_every_steps": None,
    }
    if sweep.scheduler == "pbt":  # PBT may copy any of them.
        budget["keep_checkpoints"] = steps
    tree["training"] = tree.get("training", {}) | budget
    return parse_config(tree, "the sweep")
