"""What a sweep is: which settings are searched, how, and with how many samples.

A sweep is a TOML file, `jobs/configs/sweep_*.toml`. A key of `space` is a dotted key of the run's
configuration; its value is a list to choose from, or a range.
"""

import json
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from skiprec.config.files import apply_overrides, parse_config
from skiprec.config.run import RunConfig
from skiprec.config.section import Section
from skiprec.policy.kinds import OPTIONS

Objective = Literal["mrr@20", "flops_speedup"]
KIND = "policy.kind"


class Range(Section):
    """Numbers from `low` to `high`, evenly or, with `log`, evenly in their logarithm."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.low < self.high or (self.log and self.low <= 0):
            above_0 = ", above 0 with log" if self.log else ""
            raise ValueError(f"low={self.low}, high={self.high}; expected low < high{above_0}")
        return self


Choices = tuple[bool | int | float | str, ...]
Space = dict[str, Range | Choices]


class SweepConfig(Section):
    """One sweep. Each trial is a run named `<name>-<number>`.

    `max_samples` is how long a trial trains at most, and where its schedules end; every
    `report_samples` it is validated. `scheduler`: "asha" stops the trials that are behind, first
    after `grace_samples`, then at each `reduction_factor` times as many; "pbt" copies the better
    half's weights and settings to the others every `perturb_samples`, and perturbs them; "none"
    lets all of them end. As many trials run at once as there is room for when the sweep starts; on
    a cluster that grows, `concurrent_trials` says how many, and is waited for. `objectives` are
    maximised; two need complete trials.

    `space` holds for every kind of policy, `space_of.<kind>` for that kind alone. The kinds are
    those of the configurations that the sweep is given; what is said of others is not used.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    searcher: Literal["random", "optuna"] = "random"
    scheduler: Literal["asha", "pbt", "none"] = "asha"
    objectives: tuple[Objective, ...] = Field(("mrr@20",), min_length=1, max_length=2)
    num_trials: int = Field(ge=1)
    concurrent_trials: int | None = Field(None, ge=1)
    max_samples: int = Field(ge=1)
    report_samples: int = Field(ge=1)
    grace_samples: int | None = Field(None, ge=1)
    reduction_factor: int = Field(3, ge=2)
    perturb_samples: int | None = Field(None, ge=1)
    seed: int = 0
    space: Space = Field(default_factory=dict)
    space_of: dict[str, Space] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives={list(self.objectives)} names one twice")
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
                    f"scheduler='{scheduler}' needs it, no other has a use for it"
                )
        unknown = sorted(self.space_of.keys() - OPTIONS.keys())
        if unknown:
            raise ValueError(f"space_of.{unknown[0]}: expected one of {', '.join(OPTIONS)}")
        if not self.space and not any(self.space_of.values()):
            raise ValueError("space is empty; name the keys to search")
        if any(not values for values in self._all_spaces().values() if isinstance(values, tuple)):
            raise ValueError("a key of space has an empty list; name values to choose from")
        return self

    def within(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """What PBT made of a trial's settings, brought back into the ranges."""
        spaces = self._all_spaces()
        return {
            key: min(max(value, space.low), space.high)
            if isinstance(space := spaces.get(key), Range)
            else value
            for key, value in drawn.items()
        }

    def _all_spaces(self) -> Space:
        """Every searched key once, those of one kind as `<kind>:<key>`."""
        found = dict(self.space)
        for kind, space in self.space_of.items():
            found |= {f"{kind}:{key}": values for key, values in space.items()}
        return found

    def dimensions(self, kinds: list[str]) -> Space:
        """What a trial draws: `_all_spaces`, and the kind of policy where there are several."""
        choice: Space = {KIND: tuple(kinds)} if len(kinds) > 1 else {}
        spaces = self._all_spaces().items()
        return choice | {
            key: v for key, v in spaces if ":" not in key or key.split(":")[0] in kinds
        }


def load_sweep(path: Path) -> SweepConfig:
    """The sweep in a file.

    Raises:
        ValueError: no such file, or not a sweep.
    """
    try:
        return SweepConfig.model_validate(tomllib.loads(path.read_text()))
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(f"no sweep at {path}; jobs/configs has some: sweep_*.toml") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ValueError(f"{path}: " + "\n".join(lines)) from None


def settings_of(drawn: dict[str, Any], kind: str) -> dict[str, Any]:
    """Of what a trial drew, the keys that a policy of its kind has."""
    found = {}
    for name, value in drawn.items():
        of, colon, key = name.rpartition(":")
        if name != KIND and (not colon or of == kind):
            found[key] = value
    return found


def trial_config(
    sweep: SweepConfig,
    trees: dict[str, dict[str, Any]],
    drawn: dict[str, Any],
    name: str,
    num_rows: int,
) -> RunConfig:
    """The run of a trial.

    Args:
        trees: for each kind of policy, the configuration that the trial's settings change.
        drawn: a value for each of the sweep's dimensions.
        num_rows: of the training split, in which budgets are counted.
    """
    kind = drawn.get(KIND) or next(iter(trees))
    settings = settings_of(drawn, kind)
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    tree = apply_overrides(trees[kind], [*overrides, f"name={json.dumps(name)}"])
    rows = parse_config(tree, "the sweep").training.global_batch_rows
    # A step's rows may be searched, too: so the rest follows from them.
    steps = max(1, sweep.max_samples // rows)
    budget = {
        "epochs": (steps - 0.5) * rows / num_rows,
        "validate_every_steps": max(1, sweep.report_samples // rows),
        "checkpoint_every_steps": None,
    }
    if sweep.scheduler == "pbt":  # any of them may be copied
        budget["keep_checkpoints"] = steps
    tree["training"] = tree.get("training", {}) | budget
    return parse_config(tree, "the sweep")
