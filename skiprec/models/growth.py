"""Starting a deep backbone from a trained shallower one by copying its blocks.

StackRec (Wang et al., SIGIR 2021): neighbouring blocks of a deep sequential recommender are alike,
so copies are a good start, and most of the training happens while the net is cheap. What is copied
as one is a whole cycle of dilations, so that each copy stands at the dilation it was trained at.
"""

import re
from typing import Literal

from torch import Tensor

Growth = Literal["adjacent", "cross"]
BLOCK = re.compile(r"^stack\.blocks\.(\d+)\.(.+)$")


def source_block(index: int, shallow: int, deep: int, cycle: int, growth: Growth) -> int:
    """Which of `shallow` blocks the block `index` of `deep` is copied from.

    In cycles of one block, adjacent: 0 0 1 1; cross: 0 1 0 1. In cycles of two, adjacent: 01 01 23
    23; cross: 01 23 01 23.
    """
    if growth == "cross":
        return index % shallow
    return index // cycle * shallow // deep * cycle + index % cycle


def grown(
    weights: dict[str, Tensor], shallow: int, deep: int, cycle: int, growth: Growth
) -> dict[str, Tensor]:
    """The weights of a net of `deep` blocks from those of `shallow`; all else is taken over.

    Args:
        cycle: after how many blocks the dilations repeat.

    Raises:
        ValueError: `deep` is no multiple of `shallow`, or `shallow` none of `cycle`.
    """
    if shallow < 1 or deep <= shallow or deep % shallow or shallow % cycle:
        raise ValueError(
            f"init_growth={growth!r} copies whole stacks, in cycles of {cycle} blocks: {deep} "
            f"blocks cannot be made of {shallow}; expected a multiple of {cycle} grown to a "
            "multiple of itself (model.num_blocks)"
        )
    rest = {name: tensor for name, tensor in weights.items() if not BLOCK.match(name)}
    tails: dict[int, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        if found := BLOCK.match(name):
            tails.setdefault(int(found[1]), {})[found[2]] = tensor
    copies = {
        f"stack.blocks.{index}.{tail}": tensor
        for index in range(deep)
        for tail, tensor in tails[source_block(index, shallow, deep, cycle, growth)].items()
    }
    return rest | copies
