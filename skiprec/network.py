"""The whole network: embedding -> policy -> stack of blocks -> head."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from skiprec import keyed_random
from skiprec.config.model import ModelConfig
from skiprec.layers import ItemEmbedding, KeyedDropout
from skiprec.models.exits import ExitNorms, depth_of
from skiprec.models.head import TiedItemHead
from skiprec.models.registry import architecture_of
from skiprec.models.stack import BlockStack, WholeEncoder
from skiprec.policy.build import build_policy
from skiprec.policy.section import PolicySection
from skiprec.ranking import certainty
from skiprec.types import PADDING, Batch, EarlyState, Execution, History, KeepDecision


class SkipRecNetwork(nn.Module):
    """A backbone and, where there is one, the policy that decides which of its blocks run."""

    def __init__(
        self,
        model: ModelConfig,
        policy: PolicySection,
        num_items: int,
        activation_checkpointing: bool = False,
    ):
        super().__init__()
        architecture = architecture_of(model)
        if policy.decides and not architecture.is_residual:
            raise ValueError(
                f"model.backbone={model.backbone!r} is a baseline without residual blocks, so "
                f"policy.kind={policy.kind!r} has nothing to skip; remove the [policy] section"
            )
        self.model_config = model
        self.num_items = num_items
        self.embedding = ItemEmbedding(num_items, model.width)
        self.entry = None if architecture.entry is None else architecture.entry(model)
        self.input_dropout = KeyedDropout(model.dropout, "input")
        self.policy = build_policy(policy, num_items, model.width, model.num_blocks)
        blocks = architecture.blocks(model)
        self.stack: BlockStack | WholeEncoder
        if architecture.is_residual:
            self.stack = BlockStack(blocks, model.dropout, activation_checkpointing)
        else:
            self.stack = WholeEncoder(blocks[0], model.dropout, activation_checkpointing)
        self.num_blocks = len(blocks)
        self.exits = None
        if model.exits is not None:
            self.exits = ExitNorms(model.exits, model.width, bool(model.exit_maps))
        self.head = (
            TiedItemHead(self.embedding, model.head_has_norm, model.cosine_temperature)
            if model.tied_items
            else architecture.head(model, num_items)
        )

    @property
    def counts_from_the_end(self) -> bool:
        """Whether blocks read how far an item is from the end of the window."""
        return self.entry is not None

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.embedding.table.weight.device

    def reset_parameters(self, seed: int) -> None:
        """Draws all weights. Each part has its own stream of random numbers.

        The weights of the backbone are therefore the same with and without a policy.
        """
        for name in ("embedding", "entry", "stack", "head", "policy"):
            part = getattr(self, name)
            if part is not None:
                stream = keyed_random.mix(seed, keyed_random.stream_id(name))
                part.reset_parameters(torch.Generator().manual_seed(stream >> 1))
        if self.model_config.initial_scale is not None:
            with torch.no_grad():
                for name, parameter in self.named_parameters():
                    if parameter.dim() > 1 and not name.startswith(("policy.", "exits.")):
                        parameter.mul_(self.model_config.initial_scale)

    def item_tables(self) -> Iterator[tuple[str, Tensor]]:
        """The weights with one row for each item: pairs of name and tensor."""
        for name, module in self.named_modules():
            if isinstance(module, ItemEmbedding):
                yield f"{name}.table.weight", module.table.weight
        for name in ("bias_V",) if self.model_config.tied_items else ("weight_VD", "bias_V"):
            table: Tensor | None = getattr(self.head, name)
            if table is not None:
                yield f"head.{name}", table

    def embed_batch(self, batch: Batch) -> History:
        """`embed` of a batch of training or evaluation, where the last item is the target."""
        return self.embed(batch.input_BT, batch.key_B, batch.times_BW)

    def embed(self, input_BT: Tensor, key_B: Tensor, times_BW: Tensor | None = None) -> History:
        """The embedded inputs of the rows, time-major; padding is zero.

        Args:
            times_BW: the times of the items and, last, of the request: milliseconds since 1970.

        Raises:
            ValueError: the network reads times, and there are none.
        """
        item_TB = input_BT.t()
        x_TBD = self.embedding(item_TB)
        is_item_TB1 = (item_TB != PADDING).unsqueeze(-1).to(x_TBD.dtype)
        if self.entry is not None:
            x_TBD = self.entry(x_TBD, is_item_TB1)
        x_TBD = self.input_dropout(x_TBD, key_B).contiguous()
        time_TBC = self._read_times(times_BW)
        time_TBC = None if time_TBC is None else time_TBC.to(x_TBD.dtype)
        return History(item_TB, x_TBD, is_item_TB1, key_B, time_TBC=time_TBC)

    def _read_times(self, times_BW: Tensor | None) -> Tensor | None:
        """What the blocks read of the times; None for a network that reads none."""
        mode = self.model_config.time
        if mode is None:
            return None
        if times_BW is None:
            raise ValueError(
                f"model.time={mode!r} reads the times of the rows, and these have none; build the "
                "shards with times (times = true in the recipe), or remove model.time"
            )
        read_times = architecture_of(self.model_config).read_times
        assert read_times is not None
        return read_times(times_BW, mode)

    def decide(self, history: History, progress: float | None = None) -> KeepDecision | None:
        """The decision which blocks run, from the history alone. None without a policy.

        Args:
            progress: of the training, from 0 to 1; a policy may then sample. None: the policy
                decides as in serving.
        """
        if self.policy is None:
            return None
        depth = self.policy.reads_after
        if depth is None:
            decision: KeepDecision = self.policy(history, progress)
            return decision
        x_TBD = self.first_blocks(history, depth)
        certainty_B2 = self.certainty(x_TBD[-1], depth) if self.policy.reads_scores else None
        state = replace(history, x_TBD=x_TBD, certainty_B2=certainty_B2)
        decision = self.policy(state, progress)
        return replace(
            decision,
            keep_BL=keeping_first(decision.keep_BL, depth),
            prob_BL=None if decision.prob_BL is None else keeping_first(decision.prob_BL, depth),
            early=EarlyState(depth, x_TBD),
        )

    def first_blocks(self, history: History, size: int) -> Tensor:
        """`x_TBD` after the first blocks, before any norm of an exit."""
        assert isinstance(self.stack, BlockStack)
        return self.stack.first_blocks(size, history.x_TBD, history.context_TBC, history.key_B)

    def certainty(self, x_ND: Tensor, depth: int) -> Tensor:
        """`[N, 2]`: how certain the scores of states after `depth` blocks are; no gradient."""
        if self.exits is not None:
            x_ND = self.exits(x_ND, self.exits.exit_of(torch.tensor(depth, device=x_ND.device)))
        certainty_N2: Tensor = self.head(x_ND, certainty)
        return certainty_N2

    def encode(
        self,
        history: History,
        decision: KeepDecision | None,
        execution: Execution,
        call_every_block: bool = False,
    ) -> Tensor:
        """`x_TBD` after all blocks and, with exits, after the norm of each row's own exit.

        Without a decision, `execution` must be "dense".
        """
        keep_BL = None if decision is None else decision.keep_BL
        early = None if decision is None else decision.early
        x_TBD: Tensor = self.stack(
            history.x_TBD if early is None else early.x_TBD,
            history.context_TBC,
            history.key_B,
            keep_BL,
            execution,
            call_every_block,
            0 if early is None else early.depth,
        )
        if self.exits is None:
            return x_TBD
        all_blocks = torch.tensor(self.num_blocks, device=x_TBD.device)
        depth_B = all_blocks if keep_BL is None else depth_of(keep_BL)
        normed_TBD: Tensor = self.exits(x_TBD, self.exits.exit_of(depth_B))
        return normed_TBD

    def prefixes(self, history: History, sizes: tuple[int, ...]) -> Tensor:
        """`[M, B, D]`: the last position after the first n blocks, for each n in `sizes`.

        All blocks run, whatever the sizes. With exits, each state has passed the norm of its exit.
        """
        assert isinstance(self.stack, BlockStack)
        x_MBD = self.stack.prefixes(history.x_TBD, history.context_TBC, history.key_B, sizes)
        if self.exits is None:
            return x_MBD
        exit_M = self.exits.exit_of(torch.tensor(sizes, device=x_MBD.device))
        normed_MBD: Tensor = self.exits(x_MBD, exit_M[:, None])
        return normed_MBD

    def states(
        self, history: History, decision: KeepDecision | None, sizes: tuple[int, ...]
    ) -> Tensor:
        """`[M, T, B, D]`: as `prefixes`, at all positions, for sizes from 1 on.

        Args:
            decision: leaves blocks out of rows, as in stochastic depth. None: all blocks run.
        """
        assert isinstance(self.stack, BlockStack)
        x_MTBD = self.stack.states(
            history.x_TBD,
            history.context_TBC,
            history.key_B,
            None if decision is None else decision.keep_BL,
            sizes,
        )
        if self.exits is None:
            return x_MTBD
        exit_M = self.exits.exit_of(torch.tensor(sizes, device=x_MTBD.device))
        normed_MTBD: Tensor = self.exits(x_MTBD, exit_M[:, None, None])
        return normed_MTBD


def keeping_first(value_BL: Tensor, depth: int) -> Tensor:
    """Decisions, or probabilities, with 1 for the first `depth` blocks."""
    return torch.cat([torch.ones_like(value_BL[:, :depth]), value_BL[:, depth:]], dim=1)


@contextmanager
def without_dropout(network: nn.Module) -> Iterator[None]:
    """A context in which the network computes as in serving; its mode is restored afterwards."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
