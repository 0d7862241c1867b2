"""The learned curve: a trained policy at other settings of its knob.

The settings are chosen from the policy's own numbers on the evaluated rows; no target is read.
"""

from dataclasses import dataclass

import numpy as np

from skiprec.evaluation.measure.arms import Arm, Arms, Decided
from skiprec.policy.base import PolicyModule


@dataclass(frozen=True)
class Curve:
    """The points of the learned curve.

    Args:
        knob: the name of the policy's knob.
        served: the setting in serving.
        settings: the setting at each point.
    """

    knob: str
    served: float
    settings: tuple[float, ...]


def operating_points(policy: PolicyModule, decided: Decided) -> tuple[Curve | None, Arms]:
    """The curve, and an arm of kind "learned" for each of its points, rising in blocks kept.

    A policy without a knob has neither. Neighbouring settings with equal decisions are one point.
    """
    knob = policy.knob
    if knob is None or decided.numbers_RK is None:
        return None, {}
    points = knob.points(decided.numbers_RK)
    differing = [
        point
        for index, point in enumerate(points)
        if index == 0 or not np.array_equal(point.keep_RL, points[index - 1].keep_RL)
    ]
    curve = Curve(knob.name, knob.served, tuple(point.setting for point in differing))
    return curve, {Arm("learned", i): point.keep_RL for i, point in enumerate(differing)}
