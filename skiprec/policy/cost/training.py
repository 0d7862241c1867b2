"""Training of the policy that predicts costs.

Backbone and predictor learn in the same step. The backbone learns by cross-entropy from the set of
blocks that each row ran. The predictor learns from the costs of all sets. The backbone of the same
step computes these costs, with dropout off and without gradient.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from skiprec.network import SkipRecNetwork, without_dropout
from skiprec.policy.cost.module import Policy
from skiprec.policy.cost.options import Options
from skiprec.policy.prices import price_for
from skiprec.policy.training import DecideRows, PolicyTraining
from skiprec.policy.trunk import StateTrunk
from skiprec.ranking import lost_reciprocal_rank, row_cross_entropy
from skiprec.types import PADDING, Batch, KeepDecision, Pass

# From states, scores and `target_N` to what each row costs.
RowCost = Callable[..., Tensor]


class Training(PolicyTraining):
    """See `PolicyTraining`."""

    options: Options
    policy: Policy

    def loss(
        self, batch: Batch, decision: KeepDecision, pass_: Pass
    ) -> tuple[Tensor | float, dict[str, Tensor]]:
        """`cost_weight` * the squared error of the predicted costs, averaged over rows and sets.

        A policy that reads an early state learns from the positions of `fitted_positions`.
        """
        if decision.early is not None:
            return self._loss_of_positions(batch, decision.early.depth, pass_)
        predicted_BM = decision.cost_BM
        assert predicted_BM is not None
        cost_BM = nested_costs(self.network, batch, self.policy.sizes, self._row_cost)
        error_BM = (predicted_BM - cost_BM).square()
        loss = self.options.cost_weight * error_BM.mean(1).sum() / pass_.num_rows
        return loss, {
            "cost_error": error_BM.detach().mean(1).sum(),
            "cost_of_smallest": cost_BM[:, 0].sum(),
        }

    @property
    def _row_cost(self) -> RowCost:
        return row_cross_entropy if self.options.cost_in is None else lost_reciprocal_rank

    def _loss_of_positions(
        self, batch: Batch, depth: int, pass_: Pass
    ) -> tuple[Tensor, dict[str, Tensor]]:
        trunk, network = self.policy.trunk, self.network
        assert isinstance(trunk, StateTrunk)
        is_fitted_TB = fitted_positions(batch, network.counts_from_the_end).t()
        length_TB = (batch.input_BT != PADDING).t().cumsum(0)
        with torch.no_grad(), without_dropout(network):
            history = network.embed_batch(batch)
            early = network.first_blocks(history, depth)
            state_ND, certainty_N2 = early.x_TBD[is_fitted_TB], None
            if trunk.reads_scores:
                certainty_N2 = network.certainty(network.output_after(early)[is_fitted_TB])
        vector_ND = trunk.hidden(state_ND, length_TB[is_fitted_TB][:, None], certainty_N2)
        cost_NM = nested_costs_of_positions(
            network, batch, is_fitted_TB, self.policy.sizes, self._row_cost
        )
        error_NM = (self.policy.costs(vector_ND) - cost_NM).square()
        assert pass_.num_targets is not None
        assert pass_.num_rows is not None
        error = error_NM.mean(1).sum() / pass_.num_targets
        mean = pass_.num_rows / pass_.num_targets
        return self.options.cost_weight * error, {
            "cost_error": error.detach() * pass_.num_rows,
            "cost_of_smallest": cost_NM[:, 0].sum() * mean,
        }

    def before_validation(self, decide_rows: DecideRows) -> None:
        """Sets the lowest price at which validation rows keep at most `target_keep_frac`."""
        price = price_for(
            decide_rows()["cost_BM"], self.policy.size_M, self.options.target_keep_frac
        )
        self.policy.price_1.fill_(price)

    def validation_scalars(self) -> dict[str, float]:
        """The price of all blocks."""
        return {"policy/price": float(self.policy.price_1)}


@torch.no_grad()
def nested_costs(
    network: SkipRecNetwork,
    batch: Batch,
    sizes: tuple[int, ...],
    row_cost: RowCost = row_cross_entropy,
) -> Tensor:
    """`[B, M]`: the cost of the first n blocks for each n in `sizes`; 0 without a target.

    It is the `row_cost` at the last position minus that of all blocks.

    Args:
        sizes: numbers of blocks, rising; the last one is all blocks.
    """
    target_B = batch.target_BT[:, -1]
    with without_dropout(network):
        x_MBD = network.prefixes(network.embed_batch(batch), sizes)
    use = partial(row_cost, target_N=target_B.repeat(len(sizes)))
    value_MB = network.head(x_MBD.flatten(0, 1), use).view(len(sizes), -1)
    cost_MB: Tensor = value_MB - value_MB[-1]
    return torch.where(target_B == PADDING, 0.0, cost_MB).t()


def fitted_positions(batch: Batch, counts_from_the_end: bool) -> Tensor:
    """`[B, T]`: the scored positions that look like the end of a request.

    In a causal network the state at a position is that of a request which ends there, unless its
    blocks read how far an item is from the end of the window. Then only the last position counts.
    So it does in a row without padding, which may have been cut: its earlier positions would look
    like short histories.
    """
    has_padding_B1 = batch.input_BT[:, :1] == PADDING
    is_last_T = torch.arange(batch.input_BT.shape[1], device=batch.input_BT.device) == (
        batch.input_BT.shape[1] - 1
    )
    if counts_from_the_end:
        return batch.is_scored_BT & is_last_T
    return batch.is_scored_BT & (has_padding_B1 | is_last_T)


@torch.no_grad()
def nested_costs_of_positions(
    network: SkipRecNetwork,
    batch: Batch,
    is_fitted_TB: Tensor,
    sizes: tuple[int, ...],
    row_cost: RowCost = row_cross_entropy,
) -> Tensor:
    """`[N, M]`: as `nested_costs`, at some scored positions, in the order of time, then rows."""
    target_N = batch.target_BT.t()[is_fitted_TB]
    with without_dropout(network):
        x_MTBD = network.states(network.embed_batch(batch), None, sizes)
    use = partial(row_cost, target_N=target_N.repeat(len(sizes)))
    x_ND = x_MTBD[:, is_fitted_TB].flatten(0, 1)
    value_MN: Tensor = network.head(x_ND, use).view(len(sizes), len(target_N))
    return (value_MN - value_MN[-1]).t()
