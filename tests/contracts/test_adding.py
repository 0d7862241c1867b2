"""The examples of docs/adding.md, put where it says, pass the tests that it names."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.testkit.repository import ROOT, repository_files

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/adding.md").read_text(), re.DOTALL)


def example(contains: str) -> str:
    """The one example with that text; what follows "# in …" goes elsewhere."""
    (found,) = [text for text in EXAMPLES if contains in text]
    return found.split("\n# in ")[0].strip() + "\n"


def put(file: Path, before: str, text: str) -> None:
    content = file.read_text()
    assert content.count(before) == 1, f"{file.name} has no single {before!r}"
    file.write_text(content.replace(before, text + before))


def apply_examples(root: Path) -> None:
    for text in EXAMPLES:
        if path := re.match(r"# (skiprec/\S+\.py)\n", text):
            (root / path[1]).write_text(text[path.end() :])
    registry = root / "skiprec/models/registry.py"
    put(registry, "\n@dataclass", "from skiprec.models.causal_mean import causal_mean_blocks\n")
    put(registry, '    "nextitnet": ', '    "causal_mean": Architecture(causal_mean_blocks),\n')
    encoders = root / "skiprec/policy/encoders.py"
    put(encoders, "ENCODERS: ", example("class MeanEncoder") + "\n\n")
    put(encoders, '    "gru": ', '    "mean": MeanEncoder,\n')
    schema = root / "skiprec/policy/section.py"
    put(schema, "PolicyConfig = Annotated[", example("class LengthPolicyConfig") + "\n\n")
    put(schema, "    | GumbelPolicyConfig\n", "    | LengthPolicyConfig\n")
    policies = root / "skiprec/policy/kinds.py"
    put(policies, "\ndef _keep_all", "\n" + example("def _length"))
    put(policies, '    "random": ', '    "length": _length,\n')
    imports = "from skiprec.policy.length import LengthPolicy\n"
    imports += "from skiprec.policy_config import LengthPolicyConfig\n"
    put(policies, "\n\ndef _random", imports)
    put(root / "tests/testkit/networks.py", '"random", "keep_all"}', '"length", ')


@pytest.mark.slow
def test_the_examples_pass_the_tests_they_are_held_to(tmp_path: Path) -> None:
    for file in repository_files():
        name = file.relative_to(ROOT)
        if name.parts[0] in ("skiprec", "cluster", "tests", "pyproject.toml"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / name)
    apply_examples(tmp_path)

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    golden = python("-m", "tests.numerics.golden_run", "causal_mean")
    (tmp_path / "tests/golden/causal_mean.txt").write_text(golden)
    tests = ("tests/unit/models", "tests/unit/policy", "tests/numerics/test_golden_losses.py")
    chosen = "causal_mean or mean or length"
    printed = python("-m", "pytest", "-q", *tests, "-m", "not slow", "-k", chosen)
    assert int(re.search(r"(\d+) passed", printed)[1]) > 100
