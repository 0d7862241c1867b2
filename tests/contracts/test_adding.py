"""The examples of docs/adding.md, put where it says, pass the tests that it names."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.testkit.repository import ROOT, repository_files

DOCUMENT = (ROOT / "docs/adding.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
COPIED = ("skiprec", "cluster", "jobs", "datasets", "tests", "docs", "pyproject.toml")
# The tests that the page names for a kind of policy and for a backbone.
QUICK = (
    "tests/unit/models",
    "tests/unit/policy",
    "tests/unit/training/test_objective.py",
    "tests/unit/training/test_loop.py",
    "tests/unit/training/test_item_tables.py",
    "tests/unit/evaluation/test_compute_cost.py",
    "tests/unit/evaluation/test_executor.py",
    "tests/contracts/test_policy_kinds.py",
    "tests/numerics/test_golden_losses.py",
)
OF_THE_CONFIGURATION = (
    "tests/contracts/test_configuration_reference.py",
    "tests/contracts/test_config_descriptions.py",
)
UNDER_ZERO = (
    "tests/distributed/test_zero_gradients.py",
    "tests/distributed/test_policy_kinds.py",
)


def example(contains: str) -> str:
    """The one example with that text; what follows "# in …" goes elsewhere."""
    (text,) = [text for text in EXAMPLES if contains in text]
    return text.split("\n# in ")[0].strip() + "\n"


def put(file: Path, before: str, text: str) -> None:
    content = file.read_text()
    assert content.count(before) == 1, f"{file.name} has no single {before!r}"
    file.write_text(content.replace(before, text + before))


def apply_examples(root: Path) -> None:
    """Writes the files of the page, and the lines that it puts into registries."""
    for text in EXAMPLES:
        if path := re.match(r"# ((?:skiprec|jobs)/\S+\.py)\n", text):
            file = root / path[1]
            if not file.parent.exists():
                file.parent.mkdir()
                (file.parent / "__init__.py").touch()
            file.write_text(text[path.end() :])
    registry = root / "skiprec/models/registry.py"
    put(registry, "\n@dataclass", "from skiprec.models.causal_mean import causal_mean_blocks\n")
    put(registry, '    "nextitnet": ', '    "causal_mean": Architecture(causal_mean_blocks),\n')
    encoders = root / "skiprec/policy/encoders.py"
    put(encoders, "ENCODERS: ", example("class MeanEncoder") + "\n\n")
    put(encoders, '    "gru": ', '    "mean": MeanEncoder,\n')
    (line,) = [text for text in EXAMPLES if text.startswith("# in KINDS\n")]
    kinds = root / "skiprec/policy/kinds.py"
    put(kinds, '    "gumbel",\n', line.partition("\n")[2])
    put(kinds, '    "gumbel",\n', '    "length",\n')


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which somebody followed the page."""
    root = tmp_path_factory.mktemp("extended")
    for file in repository_files():
        name = file.relative_to(ROOT)
        if name.parts[0] in COPIED and file.exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, root / name)
    apply_examples(root)
    golden = run_python(root, "-m", "tests.numerics.golden_run", "causal_mean")
    (root / "tests/golden/causal_mean.txt").write_text(golden)
    reference = run_python(root, "-m", "skiprec.config.reference")
    (root / "docs/configuration.md").write_text(reference)
    return root


def run_python(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    lines = (done.stdout + done.stderr).splitlines()
    told = [line for line in lines if line.startswith(("E  ", "FAILED", "ERROR"))] or lines
    assert done.returncode == 0, "\n".join(told[-40:])
    return done.stdout


def passed(root: Path, tests: tuple[str, ...], chosen: str, tier: str = "not slow") -> int:
    printed = run_python(root, "-m", "pytest", "-q", *tests, "-m", tier, "-k", chosen)
    return int(re.search(r"(\d+) passed", printed)[1])


@pytest.mark.slow
def test_the_examples_pass_the_tests_they_are_held_to(extended: Path) -> None:
    assert passed(extended, QUICK, "causal_mean or mean or length or halves") > 150
    assert passed(extended, OF_THE_CONFIGURATION, "test") > 5
    assert '### `kind = "halves"`' in (extended / "docs/configuration.md").read_text()


@pytest.mark.slow
def test_the_learned_kind_trains_under_zero_and_resumes(extended: Path) -> None:
    """Two ranks, every ZeRO stage, with one pass a step and with several."""
    assert passed(extended, UNDER_ZERO, "halves", "slow or not slow") == 1 + 4 * 2 + 1


@pytest.mark.slow
def test_the_job_of_the_learned_kind_trains_it(extended: Path, tmp_path: Path) -> None:
    options = ("name=halves", "policy={kind='halves', width=8}")
    more = (f"root={tmp_path}", f"data.path={tmp_path / 'data'}", "cluster.num_workers=0")
    overrides = (*options, *more, "training.engine=torch", "training.epochs=0.5")
    flags = [part for override in overrides for part in ("--set", override)]
    run_python(extended, "jobs/train_halves.py", "--config", "jobs/configs/smoke.toml", *flags)
    result = json.loads((tmp_path / "halves/result.json").read_text())
    assert result["best_mrr@20"] > 0
