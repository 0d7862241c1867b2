"""From keep logits to keep decisions of serving, and the entropy of decisions."""

from torch import Tensor

from skiprec.types import KeepDecision

SKIP, KEEP = 0, 1
TINY = 1e-6


def argmax_keep(logits_BL2: Tensor) -> KeepDecision:
    """The deterministic decision of serving: keep where the keep logit is the larger one."""
    logits_BL2 = logits_BL2.float()
    keep_BL = (logits_BL2[..., KEEP] > logits_BL2[..., SKIP]).float()
    return KeepDecision(keep_BL, logits_BL2.softmax(-1)[..., KEEP])


def entropy(prob: Tensor) -> Tensor:
    """The entropy in nats of a coin with probability `prob`, element by element."""
    prob = prob.clamp(TINY, 1 - TINY)
    return -prob * prob.log() - (1 - prob) * (1 - prob).log()
