"""Growing a network: the source of each copied block, and the weights that do not change."""

import pytest
import torch

from skiprec.models.growth import grown, source_block
from skiprec.models.registry import block_cycle
from tests.testkit.networks import BACKBONE_NAMES, build_network, model_config


@pytest.mark.parametrize(
    ("growth", "cycle", "expected"),
    [
        ("adjacent", 1, [0, 0, 1, 1, 2, 2, 3, 3]),
        ("cross", 1, [0, 1, 2, 3, 0, 1, 2, 3]),
        ("adjacent", 2, [0, 1, 0, 1, 2, 3, 2, 3]),
        ("cross", 2, [0, 1, 2, 3, 0, 1, 2, 3]),
        ("adjacent", 4, [0, 1, 2, 3, 0, 1, 2, 3]),
    ],
)
def test_each_copy_stands_at_the_dilation_of_its_source(
    growth: str, cycle: int, expected: list[int]
) -> None:
    actual = [source_block(index, 4, 8, cycle, growth) for index in range(8)]
    assert actual == expected
    assert all(copy % cycle == source % cycle for copy, source in enumerate(actual))


@pytest.mark.parametrize("backbone", BACKBONE_NAMES)
@pytest.mark.parametrize("growth", ["adjacent", "cross"])
def test_a_grown_backbone_has_copied_blocks_and_all_else_as_it_was(
    backbone: str, growth: str
) -> None:
    shallow = build_network(model_config(backbone, num_blocks=2))
    deep = build_network(model_config(backbone, num_blocks=6), seed=1)
    cycle = block_cycle(model_config(backbone))
    weights = grown(shallow.state_dict(), 2, 6, cycle, growth)
    assert weights.keys() == deep.state_dict().keys()
    deep.load_state_dict(weights)
    for index in range(6):
        source = source_block(index, 2, 6, cycle, growth)
        for name, tensor in shallow.stack.blocks[source].state_dict().items():
            assert torch.equal(deep.stack.blocks[index].state_dict()[name], tensor)
    assert torch.equal(deep.head.weight_VD, shallow.head.weight_VD)
    assert torch.equal(deep.embedding.table.weight, shallow.embedding.table.weight)


@pytest.mark.parametrize(
    ("shallow", "deep", "cycle"), [(4, 4, 1), (4, 2, 1), (4, 6, 1), (3, 6, 2), (0, 4, 1)]
)
def test_a_depth_that_copies_cannot_make_is_refused(shallow: int, deep: int, cycle: int) -> None:
    with pytest.raises(ValueError, match="copies whole stacks"):
        grown({}, shallow, deep, cycle, "adjacent")
