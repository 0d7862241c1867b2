"""The loss of the shallower exits: cross-entropy, and the distance to what the full depth says.

In-place distillation (Yu & Huang, ICCV 2019): the scores of the teacher, which is the last exit of
the same step, are a constant target of every other exit. All functions are used by a head, as
those of `skiprec/training/losses.py`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from skiprec.config.loss import LossConfig
from skiprec.keyed_random import mix, stream_id, uniform
from skiprec.scores import DotProduct, Scores
from skiprec.training.losses import Negatives, sampled_scores

# The scores of a chunk fit the second cache of a core, or a chunk has a few rows: each of them
# updates the gradient of the whole table.
CHUNK_SCORES, LEAST_ROWS = 2**18, 128


@dataclass(frozen=True)
class ExitTerms:
    """The sum for each exit: weight * CE(target, exit) + distillation * t^2 * CE(teacher, exit).

    The second cross-entropy is the distance KL(teacher || exit) plus a constant, the entropy of the
    teacher. Its scores and those of the exit are divided by t.

    Args:
        weight: of the cross-entropy of the target.
        distillation: weight of the cross-entropy of the teacher, in this step.
        temperature: t.
    """

    weight: float
    distillation: float
    temperature: float


def terms_of(loss: LossConfig, progress: float) -> ExitTerms:
    """The terms at a progress of the training, from 0 to 1; `LossConfig` says the defaults."""
    distillation = 0.5 if loss.distillation is None else loss.distillation
    passed = progress - (loss.exits_from or 0.0)
    grown = 1.0 if passed >= loss.ramp else passed / loss.ramp
    return ExitTerms(
        loss.exit_weight or 0.5, distillation * grown, loss.distillation_temperature or 1
    )


def are_trained(loss: LossConfig, progress: float) -> bool:
    """Whether a step trains the shallower exits, at a progress of the training from 0 to 1."""
    return progress >= (loss.exits_from or 0.0)


def drawn_exits(num_exits: int, step_key: int, loss: LossConfig) -> list[int]:
    """The numbers of the shallower exits that a step trains; all ranks draw the same."""
    if loss.exits_per_step == "all" or num_exits <= 3:
        return list(range(num_exits - 1))
    return [0, 1 + mix(step_key, stream_id("exits")) % (num_exits - 2)]


def share_of_positions(loss: LossConfig) -> float:
    """The share of positions at which the shallower exits are trained."""
    return loss.exit_positions or 0.5


def drawn_positions(key_B: Tensor, num_positions: int, loss: LossConfig) -> Tensor:
    """`[B, T]`: whether the shallower exits are trained at a position of a row."""
    return uniform(key_B, "exit-positions", num_positions) < share_of_positions(loss)


def full_softmax_of_exits(
    x_ND: Tensor, scores: Scores, *, num_exits: int, target_N: Tensor, terms: ExitTerms
) -> Tensor:
    """The sum of `terms` over exits and positions, in nats, over the whole catalogue.

    Scores are computed and dropped in chunks of positions.

    Args:
        x_ND: the states of the teacher, then those of each of `num_exits` exits.
        target_N: the items at the positions of one of them.
    """
    assert isinstance(scores, DotProduct)
    x_MND = x_ND.view(1 + num_exits, len(target_N), x_ND.shape[-1])
    loss: Tensor = _FullSoftmaxOfExits.apply(
        x_MND[1:], scores.weight_VD, scores.bias_V, x_MND[0].detach(), target_N - 1, terms
    )  # type: ignore[no-untyped-call]
    return loss


def sampled_softmax_of_exits(
    x_ND: Tensor,
    scores: Scores,
    *,
    num_exits: int,
    target_N: Tensor,
    negatives: Negatives,
    terms: ExitTerms,
) -> Tensor:
    """The sum of `terms` over exits and positions, in nats, over the target and the negatives.

    All exits have the same negatives at a position.
    """
    num = 1 + num_exits
    if negatives.set_N is not None:
        negatives = replace(negatives, set_N=negatives.set_N.repeat(num))
    score_NC = sampled_scores(x_ND, scores, target_N=target_N.repeat(num), negatives=negatives)
    score_MNC = score_NC.view(num, len(target_N), score_NC.shape[-1])
    log_prob_MNC = score_MNC[1:].log_softmax(-1)
    loss = -terms.weight * log_prob_MNC[..., 0].sum()
    if terms.distillation:
        t = terms.temperature
        teacher_NC = (score_MNC[0].detach() / t).softmax(-1)
        student_MNC = (score_MNC[1:] / t).log_softmax(-1)
        # A negative that is the target has no weight on either side, but a score of -inf.
        part_MNC = torch.where(teacher_NC > 0, teacher_NC * student_MNC, 0.0)
        loss = loss - terms.distillation * t * t * part_MNC.sum()
    return loss


class _FullSoftmaxOfExits(torch.autograd.Function):
    """Computes gradients in the forward pass, chunk by chunk, where the scores are at hand."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x_MND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        teacher_ND: Tensor,
        column_N: Tensor,
        terms: ExitTerms,
    ) -> Tensor:
        needs_grad = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        precise = torch.promote_types(weight_VD.dtype, torch.float32)
        grad_x, grad_w = torch.empty_like(x_MND), torch.zeros_like(weight_VD, dtype=precise)
        grad_b, loss = torch.zeros_like(bias_V, dtype=precise), grad_w.new_zeros(())
        size, t = max(LEAST_ROWS, CHUNK_SCORES // len(weight_VD)), terms.temperature
        for start in range(0, len(column_N), size):
            rows = slice(start, start + size)
            column_C1 = column_N[rows, None]
            teacher_CV = torch.addmm(bias_V, teacher_ND[rows], weight_VD.t()).to(precise)
            teacher_CV = (teacher_CV / t if t != 1 else teacher_CV).softmax(1)
            for exit_, x_ND in enumerate(x_MND):
                score_CV = torch.addmm(bias_V, x_ND[rows], weight_VD.t()).to(precise)
                sum_, grad_CV = _of_scores(score_CV, column_C1, teacher_CV, terms)
                loss += sum_
                if needs_grad:
                    grad_b += grad_CV.sum(0)
                    grad_CV = grad_CV.to(weight_VD.dtype)
                    torch.mm(grad_CV, weight_VD, out=grad_x[exit_, rows])
                    grad_w += grad_CV.t() @ x_ND[rows]
        ctx.save_for_backward(grad_x, grad_w.to(weight_VD.dtype), grad_b.to(bias_V.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # type: ignore[attr-defined]
        return (*(part * grad.to(part.dtype) for part in saved), None, None, None)


def _of_scores(
    score_CV: Tensor, column_C1: Tensor, teacher_CV: Tensor, terms: ExitTerms
) -> tuple[Tensor, Tensor]:
    """The sum of `terms` over the positions of a chunk, and its gradient by the scores."""
    weight, distillation, t = terms.weight, terms.distillation, terms.temperature
    log_prob_CV = score_CV.log_softmax(1)
    warm_CV = log_prob_CV if t == 1 else (score_CV / t).log_softmax(1)
    loss = -weight * log_prob_CV.gather(1, column_C1).sum()
    loss = loss - distillation * t * t * torch.dot(teacher_CV.flatten(), warm_CV.flatten())
    if t == 1:
        grad_CV = log_prob_CV.exp_().mul_(weight + distillation)
    else:
        grad_CV = log_prob_CV.exp_().mul_(weight).add_(warm_CV.exp_(), alpha=distillation * t)
    grad_CV.sub_(teacher_CV, alpha=distillation * t)
    minus_C1 = grad_CV.new_full(column_C1.shape, -weight)
    return loss, grad_CV.scatter_add_(1, column_C1, minus_C1)
