"""The whole network: embedding -> policy -> stack of blocks -> head."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from skiprec import keyed_random
from skiprec.config.model import ModelConfig
from skiprec.layers import ItemEmbedding, KeyedDropout
from skiprec.models.exits import ExitNorms, ExitReadouts, depth_of
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
            self.exits = ExitNorms(model.exits, model.width)
            if model.exit_readouts:
                hidden = (model.exit_readout_width or 2) * model.width
                self.exits = ExitReadouts(model.exits, model.width, hidden)
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
        for name in ("embedding", "entry", "stack", "head", "policy", "exits"):
            part = getattr(self, name)
            if hasattr(part, "reset_parameters"):
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
        early = self.first_blocks(history, depth)
        certainty_B2 = None
        if self.policy.reads_scores:
            certainty_B2 = self.certainty(self.output_after(early, last=True)[-1])
        state = replace(history, x_TBD=early.x_TBD, certainty_B2=certainty_B2)
        decision = self.policy(state, progress)
        return replace(
            decision,
            keep_BL=keeping_first(decision.keep_BL, depth),
            prob_BL=None if decision.prob_BL is None else keeping_first(decision.prob_BL, depth),
            early=early,
        )

    def first_blocks(self, history: History, size: int) -> EarlyState:
        """The state after the first blocks, before any norm of an exit."""
        x_TBD, start, states = history.x_TBD, 0, []
        for end in [depth for depth in self._added_exits if depth < size] + [size]:
            x_TBD = self._run(history, x_TBD, None, "dense", False, start, end)
            states.append(x_TBD)
            start = end
        return EarlyState(size, x_TBD, tuple(states[:-1]))

    def output_after(self, early: EarlyState, last: bool = False) -> Tensor:
        """`[T, B, D]`: what the head reads of rows that leave after these blocks.

        Args:
            last: whether of the last position alone; T is then 1.
        """
        positions = slice(-1, None) if last else slice(None)
        x_TBD = early.x_TBD[positions]
        if self.exits is None:
            return x_TBD
        output_TBD: Tensor = self.exits(x_TBD, self.exits.number_of(early.depth))
        for exit_, before_TBD in enumerate(early.passed):
            output_TBD = output_TBD + self.exits(before_TBD[positions], exit_)
        return output_TBD

    def certainty(self, output_ND: Tensor) -> Tensor:
        """`[N, 2]`: how certain the scores of what the head reads are; no gradient."""
        certainty_N2: Tensor = self.head(output_ND, certainty)
        return certainty_N2

    def encode(
        self,
        history: History,
        decision: KeepDecision | None,
        execution: Execution,
        call_every_block: bool = False,
    ) -> Tensor:
        """`[T, B, D]`: what the head reads after the kept blocks, with exits of each row's own one.

        Without a decision, `execution` must be "dense".
        """
        if isinstance(self.exits, ExitReadouts):
            sizes = (self.num_blocks,)
            return self._readouts(history, decision, execution, call_every_block, sizes, True)[0]
        early = None if decision is None else decision.early
        keep_BL = None if decision is None else decision.keep_BL
        x_TBD, start = (history.x_TBD, 0) if early is None else (early.x_TBD, early.depth)
        x_TBD = self._run(history, x_TBD, keep_BL, execution, call_every_block, start)
        if self.exits is None:
            return x_TBD
        normed_TBD: Tensor = self.exits(x_TBD, self._exits_of_rows(keep_BL))
        return normed_TBD

    def encode_last(
        self,
        history: History,
        decision: KeepDecision | None,
        execution: Execution,
        call_every_block: bool = False,
    ) -> Tensor:
        """`[B, D]`: the last position of `encode`, which is all that a request needs."""
        if not isinstance(self.exits, ExitReadouts):
            return self.encode(history, decision, execution, call_every_block)[-1]
        sizes = (self.num_blocks,)
        return self._readouts(history, decision, execution, call_every_block, sizes, True, True)[
            0, -1
        ]

    def prefixes(self, history: History, sizes: tuple[int, ...]) -> Tensor:
        """`[M, B, D]`: what the head reads at the last position, for rows of the first n blocks.

        M counts the numbers n in `sizes`. All blocks run, whatever the sizes.
        """
        assert isinstance(self.stack, BlockStack)
        if isinstance(self.exits, ExitReadouts):
            return self._readouts(history, None, "dense", True, sizes, last=True)[:, -1]
        x_MBD = self.stack.prefixes(history.x_TBD, history.context_TBC, history.key_B, sizes)
        if self.exits is None:
            return x_MBD
        normed_MBD: Tensor = self.exits(x_MBD, self._exits_of(sizes)[:, None])
        return normed_MBD

    def states(
        self, history: History, decision: KeepDecision | None, sizes: tuple[int, ...]
    ) -> Tensor:
        """`[M, T, B, D]`: as `prefixes`, at all positions, for sizes from 1 on.

        Args:
            decision: leaves blocks out of rows, as in stochastic depth. None: all blocks run.
        """
        assert isinstance(self.stack, BlockStack)
        if isinstance(self.exits, ExitReadouts):
            execution: Execution = "dense" if decision is None else "gathered"
            return self._readouts(history, decision, execution, True, sizes)
        x_MTBD = self.stack.states(
            history.x_TBD,
            history.context_TBC,
            history.key_B,
            None if decision is None else decision.keep_BL,
            sizes,
        )
        if self.exits is None:
            return x_MTBD
        normed_MTBD: Tensor = self.exits(x_MTBD, self._exits_of(sizes)[:, None, None])
        return normed_MTBD

    def _readouts(
        self,
        history: History,
        decision: KeepDecision | None,
        execution: Execution,
        call_every_block: bool,
        sizes: tuple[int, ...],
        rows_leave: bool = False,
        last: bool = False,
    ) -> Tensor:
        """`[M, T, B, D]`: the sums of readouts after the first n blocks, for each n in `sizes`.

        Args:
            rows_leave: whether rows leave behind the last block that they keep; else behind all.
            last: whether of the last position alone; T is then 1.
        """
        assert self.exits is not None
        keep_BL = None if decision is None else decision.keep_BL
        exit_B1 = self._exits_of_rows(keep_BL if rows_leave else None).unsqueeze(-1)
        known = {0: history.x_TBD}
        if decision is not None and decision.early is not None:
            early = decision.early
            states = zip(self._added_exits, early.passed, strict=False)
            known |= {**dict(states), early.depth: early.x_TBD}
        total: Tensor | float = 0.0
        outputs, start, x_TBD = {}, 0, history.x_TBD
        for end in sorted({*known, *self._added_exits, *sizes}):
            if end in known:
                x_TBD = known[end]
            else:
                x_TBD = self._run(history, x_TBD, keep_BL, execution, call_every_block, start, end)
            start = end
            if end not in sizes and end not in self._added_exits:
                continue
            exit_ = self.exits.number_of(end)
            readout_TBD = self.exits(x_TBD[-1:] if last else x_TBD, exit_)
            output_TBD = total + torch.where(exit_B1 >= exit_, readout_TBD, 0.0)
            if end in sizes:
                outputs[end] = output_TBD
            if end in self._added_exits:
                total = output_TBD
        return torch.stack([outputs[size] for size in sizes])

    @property
    def _added_exits(self) -> tuple[int, ...]:
        """The depths of exits that add up, as far as there are blocks; else empty."""
        if not isinstance(self.exits, ExitReadouts):
            return ()
        return tuple(depth for depth in self.model_config.exits or () if depth <= self.num_blocks)

    def _exits_of(self, depths: tuple[int, ...]) -> Tensor:
        assert self.exits is not None
        return self.exits.exit_of(torch.tensor(depths, device=self.device))

    def _exits_of_rows(self, keep_NBL: Tensor | None) -> Tensor:
        """The numbers of the exits at which rows leave; None: every row runs all blocks."""
        if keep_NBL is None:
            return self._exits_of((self.num_blocks,))[0]
        assert self.exits is not None
        return self.exits.exit_of(depth_of(keep_NBL))

    def _run(
        self,
        history: History,
        x_TBD: Tensor,
        keep_BL: Tensor | None,
        execution: Execution,
        call_every_block: bool,
        start: int,
        end: int | None = None,
    ) -> Tensor:
        """`x_TBD` after the blocks from `start` to `end`."""
        context_TBC, key_B = history.context_TBC, history.key_B
        after_TBD: Tensor = self.stack(
            x_TBD, context_TBC, key_B, keep_BL, execution, call_every_block, start, end
        )
        return after_TBD


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
