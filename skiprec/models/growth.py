"""Starting a deep backbone from a trained shallower one by copying its blocks.

StackRec (Wang et al., SIGIR 2021): neighbouring blocks of a deep sequential recommender are alike,
so copies are good first weights, and most of the training happens while the network is cheap. Whole
cycles of dilations are copied, so that each copy has the dilation that it was trained with.
"""

import re
from typing import Literal

from torch import Tensor

Growth = Literal["adjacent", "cross"]
BLOCK = re.compile(r"^stack\.blocks\.(\d+)\.(.+)$")


def source_block(index: int, shallow: int, deep: int, cycle: int, growth: Growth) -> int:
    """The index of the shallow network's block from which block `index` is copied.

    | growth | cycle of 1 block | cycle of 2 blocks |
    |---|---|---|
    | adjacent | 0 0 1 1 | 01 01 23 23 |
    | cross | 0 1 0 1 | 01 23 01 23 |

    Args:
        shallow: number of blocks of the shallow network.
        deep: number of blocks of the deep network.
        cycle: number of blocks after which the dilations repeat.
    """
    if growth == "cross":
        return index % shallow
    return index // cycle * shallow // deep * cycle + index % cycle


def grown(
    weights: dict[str, Tensor], shallow: int, deep: int, cycle: int, growth: Growth
) -> dict[str, Tensor]:
    """The weights of a network of `deep` blocks, copied from a network of `shallow` blocks.

    Weights outside of the blocks are taken over as they are.

    Args:
        cycle: number of blocks after which the dilations repeat.

    Raises:
        ValueError: `deep` is not a multiple of `shallow`, or `shallow` not a multiple of `cycle`.
    """
    if shallow < 1 or deep <= shallow or deep % shallow or shallow % cycle:
        raise ValueError(
            f"init_growth={growth!r} copies whole stacks, in cycles of {cycle} blocks: {deep} "
            f"blocks cannot be made of {shallow}; expected that the shallow run has a multiple of "
            f"{cycle} blocks and that model.num_blocks is a larger multiple of its number"
        )
    rest = {name: tensor for name, tensor in weights.items() if not BLOCK.match(name)}
    tails: dict[int, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        if match := BLOCK.match(name):
            tails.setdefault(int(match[1]), {})[match[2]] = tensor
    copies = {
        f"stack.blocks.{index}.{tail}": tensor
        for index in range(deep)
        for tail, tensor in tails[source_block(index, shallow, deep, cycle, growth)].items()
    }
    return rest | copies
