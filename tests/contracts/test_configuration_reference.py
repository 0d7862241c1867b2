"""docs/configuration.md is what the sections of a configuration say."""

from skiprec.config.reference import reference
from skiprec.config.run import RunConfig
from skiprec.policy.kinds import OPTIONS
from tests.testkit.repository import ROOT


def test_the_page_is_generated_from_the_sections() -> None:
    expected = (ROOT / "docs/configuration.md").read_text()
    assert reference() == expected, "python -m skiprec.config.reference > docs/configuration.md"


def test_the_page_has_every_key() -> None:
    page = reference()
    fields = dict(RunConfig.model_fields)
    for options in OPTIONS.values():
        fields |= {name: field for name, field in options.model_fields.items() if name != "kind"}
    for name in ("data", "model", "loss", "training", "cluster", "evaluation"):
        section = fields.pop(name).annotation
        fields |= section.model_fields
    del fields["policy"], fields["pretraining"]
    missing = [name for name in fields if f"| `{name}` |" not in page]
    assert not missing
    assert "| `no_such_key` |" not in page, "the control"
