"""Studies: rows of configurations with seeds, and the part of their results that is kept.

A study is a TOML file of `jobs/studies`. A row names a configuration file, from which a run is
trained for each seed, or an arm of another row's evaluation, such as its decisions shuffled across
users.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self, cast

from pydantic import Field, ValidationError, model_validator

from cluster.studies.schema import (
    RunFacts,
    SmallFrontier,
    SmallPoint,
    SmallSet,
    StudyResult,
)
from skiprec.config.files import load_config
from skiprec.config.reading import explain, read_toml
from skiprec.config.run import RunConfig
from skiprec.config.section import Section
from skiprec.evaluation.report.schema import (
    METRICS,
    Accuracy,
    ArmMetrics,
    FixedSet,
    LearnedPoint,
    Metrics,
    Report,
    Row,
)
from skiprec.models.registry import architecture_of

FIGURES = Literal["convergence", "policies", "depth"]


class StudyRow(Section):
    """One line of the table.

    A row is either a run or an arm of the evaluation of another row. For a run, `config` is a file
    in the study's folder of configurations, without its ending, `set` overrides some of its keys,
    and `name` is the name of the run, which `set` requires; `seeds` are those of the study's that
    the row is trained with, by default all. For an arm, `arm` is its name and `of` the name of the
    row it belongs to.
    """

    label: str
    config: str | None = None
    name: str = ""
    set: tuple[str, ...] = ()
    seeds: tuple[int, ...] | None = Field(None, min_length=1)
    arm: str | None = None
    of: str | None = None

    @model_validator(mode="after")
    def _either_trained_or_an_arm(self) -> Self:
        if (self.config is None) == (self.arm is None) or (self.arm is None) != (self.of is None):
            raise ValueError(
                f"row {self.label!r}: expected either config, or arm and of, the row it belongs to"
            )
        if self.arm is not None and (self.set or self.name or self.seeds):
            raise ValueError(
                f"row {self.label!r}: name, set and seeds have no effect on an arm; remove them"
            )
        if self.config is not None and not self.name:
            object.__setattr__(self, "name", self.config)
        if self.set and self.name == self.config:
            raise ValueError(f"row {self.label!r} overrides {self.config!r}; give it a name, too")
        return self


class Study(Section):
    """Rows, each trained with every seed. The other rows are paired with the first one.

    `set` overrides keys of every row's configuration; what a row sets has precedence.
    """

    title: str
    configs: str
    set: tuple[str, ...] = ()
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    rows: tuple[StudyRow, ...] = Field(min_length=1)
    figures: tuple[FIGURES, ...] = ()

    @model_validator(mode="after")
    def _rows_name_rows(self) -> Self:
        names = [row.name for row in self.rows if row.config is not None]
        if len(set(names)) < len(names):
            raise ValueError(f"two rows of the study have one name: {', '.join(sorted(names))}")
        if self.rows[0].config is None or self.rows[0].seeds is not None:
            raise ValueError(
                "the first row needs a config and every seed, because the other rows are compared "
                "with its runs"
            )
        for row in self.rows:
            if row.of is not None and row.of not in names:
                raise ValueError(f"no row is named {row.of!r}; there are: {', '.join(names)}")
            other = sorted(set(row.seeds or ()) - set(self.seeds))
            if other:
                raise ValueError(
                    f"row {row.label!r}: expected seeds of the study, {list(self.seeds)}, found "
                    f"{other}"
                )
        return self

    @property
    def reference(self) -> StudyRow:
        """The row that the other rows are compared with."""
        return self.rows[0]


def load_study(path: Path) -> Study:
    """The study in a file.

    Raises:
        ValueError: there is no such file, or it is no study.
    """
    if not path.is_file():
        near = ", ".join(sorted(p.stem for p in path.parent.glob("*.toml")))
        raise ValueError(f"no study at {path}; there are: {near}")
    try:
        return Study.model_validate(read_toml(path, "study", "jobs/studies"))
    except ValidationError as error:
        raise ValueError(f"{path}: " + "\n".join(explain(Study, error))) from None


def study_runs(
    study: Study, folder: Path, overrides: list[str]
) -> list[tuple[StudyRow, int, RunConfig]]:
    """Every run of a study as (row, seed, configuration), in the order in which they can run.

    A run is named `<row>-s<seed>`, and so is the run from which it starts. All rows come with one
    seed before the next seed, so that a study that is cut short has one seed of each row.

    Args:
        folder: the folder of the study's file; `configs` is relative to this folder.
        overrides: `dotted.key=value` for every run; they have precedence over those of the study
            and its rows.

    Raises:
        ValueError: a configuration does not load, sets an option that its backbone does not have,
            or starts from a run that no earlier row trains.
    """
    runs: list[tuple[StudyRow, int, RunConfig]] = []
    for seed in study.seeds:
        for row in study.rows:
            if row.config is None or seed not in (row.seeds or study.seeds):
                continue
            path = folder / study.configs / f"{row.config}.toml"
            own = [f"name={row.name}-s{seed}", f"training.seed={seed}"]
            given = [*study.set, *row.set, *overrides]
            plain = load_config(path, given)
            if plain.init_from is not None:
                own.append(f"init_from={plain.init_from}-s{seed}")
            config = load_config(path, [*given, *own])
            try:
                architecture_of(config.model)
            except ValueError as error:
                raise ValueError(f"row {row.label!r}: {error}") from None
            known = {other.name for _, _, other in runs}
            if config.init_from is not None and config.init_from not in known:
                raise ValueError(
                    f"row {row.label!r} starts from {plain.init_from!r}, "
                    f"which no earlier row trains with seed {seed}"
                )
            runs.append((row, seed, config))
    return runs


def result_of_run(report: Report, facts: RunFacts) -> StudyResult:
    """The part of a run's report that a study keeps, small enough to commit, and its `facts`."""
    frontier = report.get("frontier")
    small: SmallFrontier | None = None
    if frontier is not None:
        small = {
            "hull": frontier["hull"],
            "served": frontier["served"],
            "knob": frontier["knob"],
            "sets": [_small_set(fixed_set) for fixed_set in frontier["sets"]],
            "learned": [_small_point(point) for point in frontier["learned"]],
        }
    return {
        "rows": [_sorted_row(row) for row in report["rows"]],
        "differences": report["differences"],
        "policy": report["policy"],
        "frontier": small,
        "flops_full_row": report["flops"]["full_row"],
        "statements": report["statements"],
        "conditions": report["conditions"],
        "row": facts["row"],
        "label": facts["label"],
        "seed": facts["seed"],
        "config": facts["config"],
        "earlier": facts["earlier"],
        "trained_by": facts["trained_by"],
        "training": facts["training"],
    }


def _sorted_row(row: Row) -> Row:
    """The same row with its metrics first, then their intervals, then the speedups."""
    numbers: Mapping[str, object] = row
    speedups = [key for key in row if key.startswith("speedup")]
    intervals = [f"{metric}_interval" for metric in METRICS]
    keys = ("name", "keep_frac", *METRICS, *intervals, *speedups)
    return cast(Row, {key: numbers[key] for key in keys})


def _small_set(fixed_set: FixedSet) -> SmallSet:
    return {
        "kept_blocks": fixed_set["kept_blocks"],
        "blocks": fixed_set["blocks"],
        **_accuracy(fixed_set),
    }


def _small_point(point: LearnedPoint) -> SmallPoint:
    return {
        "kept_blocks": point["kept_blocks"],
        "setting": point["setting"],
        **_accuracy(point),
        "minus_frontier": _accuracy(point["minus_frontier"]),
        "minus_hull": _accuracy(point["minus_hull"]),
    }


def _accuracy(metrics: Metrics | ArmMetrics) -> Accuracy:
    """The one metric that curves are drawn with."""
    return {"mrr@20": metrics["mrr@20"], "mrr@20_interval": metrics["mrr@20_interval"]}
