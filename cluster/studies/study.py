"""What a study is: rows of configurations with seeds, and what is kept of their results.

A study is a TOML file of `jobs/studies`. A row names a configuration file, which trains a run for
each seed, or an arm of another row's evaluation, such as its decisions shuffled across users.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from skiprec.config.files import load_config
from skiprec.config.run import RunConfig
from skiprec.config.section import Section

Record = dict[str, Any]
METRICS = ("mrr@5", "mrr@20", "hr@5", "hr@20", "hr@10", "ndcg@10")
FIGURES = Literal["convergence", "policies", "depth"]


class StudyRow(Section):
    """One line of the table.

    `config` is a file in the study's folder of configurations, without its ending, and `set`
    overrides some of its keys; `name` is the run's, and has to differ where `set` does. Or: `arm`
    of the row that is named `of`.
    """

    label: str
    config: str | None = None
    name: str = ""
    set: tuple[str, ...] = ()
    arm: str | None = None
    of: str | None = None

    @model_validator(mode="after")
    def _either_trained_or_an_arm(self) -> Self:
        if (self.config is None) == (self.arm is None) or (self.arm is None) != (self.of is None):
            raise ValueError(
                f"row {self.label!r}: expected either config, or arm and of, the row it belongs to"
            )
        if self.arm is not None and (self.set or self.name):
            raise ValueError(
                f"row {self.label!r}: name and set have no effect on an arm; remove them"
            )
        if self.config is not None and not self.name:
            object.__setattr__(self, "name", self.config)
        if self.set and self.name == self.config:
            raise ValueError(f"row {self.label!r} overrides {self.config!r}; give it a name, too")
        return self


class Study(Section):
    """Rows, each trained with every seed. The first is what the others are paired with."""

    title: str
    configs: str
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    rows: tuple[StudyRow, ...] = Field(min_length=1)
    figures: tuple[FIGURES, ...] = ()

    @model_validator(mode="after")
    def _rows_name_rows(self) -> Self:
        names = [row.name for row in self.rows if row.config is not None]
        if len(set(names)) < len(names):
            raise ValueError(f"two rows of the study have one name: {', '.join(sorted(names))}")
        if self.rows[0].config is None:
            raise ValueError("the first row is what others are compared with; it needs a config")
        for row in self.rows:
            if row.of is not None and row.of not in names:
                raise ValueError(f"no row is named {row.of!r}; there are: {', '.join(names)}")
        return self

    @property
    def reference(self) -> StudyRow:
        """What the other rows are compared with."""
        return self.rows[0]


def load_study(path: Path) -> Study:
    """The study in a file.

    Raises:
        ValueError: no such file, or not a study.
    """
    if not path.is_file():
        near = ", ".join(sorted(p.stem for p in path.parent.glob("*.toml")))
        raise ValueError(f"no study at {path}; there are: {near}")
    try:
        return Study.model_validate(tomllib.loads(path.read_text()))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ValueError(f"{path}: " + "\n".join(lines)) from None


def study_runs(
    study: Study, folder: Path, overrides: list[str]
) -> list[tuple[StudyRow, int, RunConfig]]:
    """Every run of a study as (row, seed, configuration), in the order in which they can run.

    A run is named `<row>-s<seed>`, and so is the run it starts from.

    Args:
        folder: of the study's file; its `configs` is relative to it.
        overrides: `dotted.key=value`, for every run; they win over the rows' own.

    Raises:
        ValueError: a configuration that does not load, or one that starts from a run which is not
            a row before it.
    """
    found: list[tuple[StudyRow, int, RunConfig]] = []
    for row in study.rows:
        if row.config is None:
            continue
        path = folder / study.configs / f"{row.config}.toml"
        for seed in study.seeds:
            own = [f"name={row.name}-s{seed}", f"training.seed={seed}"]
            plain = load_config(path, [*row.set, *overrides])
            if plain.init_from is not None:
                own.append(f"init_from={plain.init_from}-s{seed}")
            config = load_config(path, [*row.set, *overrides, *own])
            known = {other.name for _, _, other in found}
            if config.init_from is not None and config.init_from not in known:
                raise ValueError(
                    f"row {row.label!r} starts from {plain.init_from!r}, which is no row before it"
                )
            found.append((row, seed, config))
    return found


def result_of_run(report: Record, extra: Record) -> Record:
    """What a study keeps of one run's report: small enough to commit."""
    frontier = report.get("frontier")
    if frontier is not None:
        frontier = {
            "hull": frontier["hull"],
            "served": frontier["served"],
            "knob": frontier["knob"],
            "sets": [_on_frontier(point) for point in frontier["sets"]],
            "learned": [_on_frontier(point) for point in frontier["learned"]],
        }
    wanted = ("name", "keep_frac", *METRICS, *(f"{metric}_interval" for metric in METRICS))
    speeds = [key for key in report["rows"][0] if key.startswith("speedup")]
    policy = report["policy"]
    return {
        "rows": [{key: row[key] for key in (*wanted, *speeds)} for row in report["rows"]],
        "differences": report["differences"],
        "policy": policy,
        "frontier": frontier,
        "flops_full_row": report["flops"]["full_row"],
        "statements": report["statements"],
        "conditions": report["conditions"],
        **extra,
    }


def _on_frontier(point: Record) -> Record:
    """Where a point stands, by the one metric that curves are drawn with."""
    metric = "mrr@20"
    found: Record = {
        key: point[key]
        for key in ("kept_blocks", "blocks", "setting", metric, f"{metric}_interval")
        if key in point
    }
    for control in ("minus_frontier", "minus_hull"):
        if control in point:
            found[control] = {key: point[control][key] for key in (metric, f"{metric}_interval")}
    return found
