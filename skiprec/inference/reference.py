"""What the native library computes, in NumPy, row by row and without any trick.

It answers where there is no library, and tests compare the library with it.
"""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skiprec.inference.native.library import PARTS, Answer
from skiprec.inference.native.pack import (
    CHEAPEST_SET,
    CONVOLUTIONS,
    RULES,
    RUN_ALL,
    Weights,
    exit_norms,
    readout_layers,
    score_vectors,
)
from skiprec.inference.saved_model import ModelSpec

Floats = NDArray[Any]  # float32
Bools = NDArray[np.bool_]

EPSILON = 1e-5
TAPS = 3


class ReferenceModel:
    """A model with the interface of `NativeModel`."""

    def __init__(self, spec: ModelSpec, weights: Weights):
        self.spec, self.weights = spec, weights

    def recommend(
        self,
        item_N: NDArray[np.int32],
        end_B: NDArray[np.int64],
        k: int,
        exclude_seen: bool = False,
        keep_BL: Bools | None = None,
        setting: float = 0.0,
        allowed_V: Bools | None = None,
        threads: int = 1,
    ) -> Answer:
        """See `NativeModel.recommend`; `threads` has no effect."""
        rows = len(end_B)
        items_BK = np.zeros((rows, k), np.int32)
        scores_BK = np.full((rows, k), -np.inf, np.float32)
        kept_BL = np.ones((rows, self.spec.shape["blocks"]), np.bool_)
        seconds_P = np.zeros(len(PARTS))
        for row, history in enumerate(np.split(item_N, end_B)[:rows]):
            times_s = [time.perf_counter()]
            if keep_BL is not None:
                kept_BL[row] = keep_BL[row]
            elif self.spec.shape["rule"] != RUN_ALL and len(history):
                kept_BL[row] = self._decide(history, setting)
            times_s.append(time.perf_counter())
            last_D = self._last_vector(history, kept_BL[row])
            times_s.append(time.perf_counter())
            score_V = self.scores(last_D[None])[0]
            may_V = np.ones(len(score_V), bool) if allowed_V is None else allowed_V.copy()
            if exclude_seen:
                may_V[history - 1] = False
            place_N = np.lexsort((np.arange(len(score_V)), -score_V))
            best_N = place_N[may_V[place_N]][:k]
            items_BK[row, : len(best_N)] = best_N + 1
            scores_BK[row, : len(best_N)] = score_V[best_N]
            seconds_P += np.diff([*times_s, time.perf_counter()])
        return Answer(items_BK, scores_BK, kept_BL, seconds_P)

    def scores(self, vector_BD: Floats) -> Floats:
        """`[B, V]`: the scores of all items."""
        score_BV: Floats = vector_BD @ score_vectors(self.weights).T + self.weights["head.bias_V"]
        return score_BV

    def _embed(self, history: NDArray[np.int32]) -> Floats:
        recent = history[-self.spec.shape["window"] :]
        x_TD = self.weights["embedding.table.weight"][recent]
        if self.spec.shape["backbone"] != CONVOLUTIONS:
            table_PD = self.weights["entry.table_PD"]
            x_TD = x_TD + table_PD[len(table_PD) - len(recent) :]
        return x_TD

    def _last_vector(self, history: NDArray[np.int32], keep_L: Bools) -> Floats:
        x_TD = self._embed(history)
        if not len(x_TD):
            x_TD = np.zeros((1, self.spec.shape["width"]), np.float32)
            keep_L = np.zeros_like(keep_L)
        kept, depths = np.flatnonzero(keep_L), self.spec.exit_depths
        if not depths or not len(history):
            last_D: Floats = self._run_blocks(x_TD, kept)[-1]
            return last_D
        exit_ = next(e for e, depth in enumerate(depths) if depth > kept.max(initial=-1))
        if not readout_layers(self.weights):
            last_D = self._run_blocks(x_TD, kept)[-1]
            return self._normed_at(exit_, last_D)
        total_D: Floats = np.zeros_like(x_TD[-1])
        for e in range(exit_ + 1):
            total_D += self._readout(e, self._run_blocks(x_TD, kept[kept < depths[e]])[-1])
        return total_D

    def _normed_at(self, exit_: int, x_D: Floats) -> Floats:
        gamma_D, beta_D = exit_norms(self.weights)[exit_]
        normed_D: Floats = _normed(x_D[None])[0] * gamma_D + beta_D
        return normed_D

    def _readout(self, exit_: int, x_D: Floats) -> Floats:
        up_DH, down_HD = readout_layers(self.weights)[exit_]
        hidden_H = np.maximum(_normed(x_D[None])[0] @ up_DH, 0)
        return self._normed_at(exit_, x_D + hidden_H @ down_HD)

    def _run_blocks(self, x_TD: Floats, kept: NDArray[np.intp]) -> Floats:
        is_conv = self.spec.shape["backbone"] == CONVOLUTIONS
        for index in kept.tolist():
            x_TD = (self._conv_block if is_conv else self._attention_block)(x_TD, index)
        return x_TD

    def _norm(self, x_TD: Floats, name: str, suffix: str = "") -> Floats:
        gamma_D, beta_D = (self.weights[f"{name}{part}{suffix}"] for part in ("weight", "bias"))
        normed_TD: Floats = _normed(x_TD) * gamma_D + beta_D
        return normed_TD

    def _conv(self, x_TD: Floats, conv: str, norm: str, dilation: int) -> Floats:
        weight_KDE = self.weights[f"{conv}weight_KDE"]
        out_TE = np.tile(self.weights[f"{conv}bias_E"], (len(x_TD), 1))
        for tap in range(TAPS):
            late = max(0, len(x_TD) - tap * dilation)
            out_TE[len(x_TD) - late :] += x_TD[:late] @ weight_KDE[TAPS - 1 - tap]
        return np.maximum(self._norm(out_TE, norm, "_D"), 0)

    def _conv_block(self, x_TD: Floats, index: int) -> Floats:
        name, dilation = f"stack.blocks.{index}.", self.spec.dilations[index]
        h_TD = self._conv(x_TD, f"{name}conv_1.", f"{name}norm_1.", dilation)
        h_TD = self._conv(h_TD, f"{name}conv_2.", f"{name}norm_2.", 2 * dilation)
        return x_TD + self.weights.get(f"{name}scale", np.float32(1)) * h_TD

    def _attention_block(self, x_TD: Floats, index: int) -> Floats:
        name, w = f"stack.blocks.{index}.", self.weights
        scale_1, scale_2 = w[f"{name}scale_1"], w[f"{name}scale_2"]
        normed_TD = self._norm(x_TD, f"{name}norm_1.")
        a_TD = scale_1 * self._attention(normed_TD, w[f"{name}attention.weight_DE"])
        if self.spec.backbone == "sasrec_plus_authors":
            y_TD = self._norm(normed_TD + a_TD, f"{name}norm_2.")
            return y_TD + scale_2 * self._feed_forward(y_TD, f"{name}feed_forward.")
        f_TD = self._feed_forward(self._norm(x_TD + a_TD, f"{name}norm_2."), f"{name}feed_forward.")
        return x_TD + a_TD + scale_2 * f_TD

    def _attention(self, x_TD: Floats, weight_DE: Floats) -> Floats:
        positions, width = x_TD.shape
        heads = self.spec.shape["heads"]
        q, k, v = (x_TD @ weight_DE).reshape(positions, 3, heads, width // heads).swapaxes(0, 1)
        score_HTT = np.einsum("qhc,khc->hqk", q, k) / np.sqrt(width // heads)
        is_future_TT = np.triu(np.ones((positions, positions), bool), 1)
        score_HTT = np.where(is_future_TT, -np.inf, score_HTT)
        weight_HTT = np.exp(score_HTT - score_HTT.max(2, keepdims=True))
        weight_HTT /= weight_HTT.sum(2, keepdims=True)
        mean_TD: Floats = np.einsum("hqk,khc->qhc", weight_HTT, v).reshape(positions, width)
        return mean_TD.astype(np.float32)

    def _feed_forward(self, x_TD: Floats, name: str) -> Floats:
        w = self.weights
        h_TD = np.maximum(x_TD @ w[f"{name}weight_1_DE"] + w[f"{name}bias_1_E"], 0)
        out_TD: Floats = h_TD @ w[f"{name}weight_2_DE"] + w[f"{name}bias_2_E"]
        return out_TD

    def _decide(self, history: NDArray[np.int32], setting: float) -> Bools:
        w, shape = self.weights, self.spec.shape
        if shape["reads_after"]:
            vector_P = self._vector_of_state(history)
            return self._by_rule(vector_P, setting) | (
                np.arange(shape["blocks"]) < shape["reads_after"]
            )
        if shape["policy_has_table"]:
            x_TP = w["policy.trunk.embedding.table.weight"][history[-shape["window"] :]]
        else:
            x_TP = self._embed(history) @ w["policy.trunk.project.weight"].T
            x_TP = x_TP + w["policy.trunk.project.bias"]
        for layer in range(2):
            conv, norm = (f"policy.trunk.encoder.{part}.{layer}." for part in ("convs", "norms"))
            x_TP = x_TP + self._conv(x_TP, conv, norm, 1 + layer)
        return self._by_rule(x_TP.mean(0), setting)

    def _vector_of_state(self, history: NDArray[np.int32]) -> Floats:
        """What the policy reads after its first blocks."""
        w, x_TD = self.weights, self._embed(history)
        x_TD = self._run_blocks(x_TD, np.arange(self.spec.shape["reads_after"]))
        length = np.float32(np.log(len(x_TD)))
        features_F = np.append(_normed(x_TD)[-1], length).astype(np.float32)
        vector_P: Floats = features_F @ w["policy.trunk.project.weight"].T
        return np.maximum(vector_P + w["policy.trunk.project.bias"], 0)

    def _by_rule(self, vector_P: Floats, setting: float) -> Bools:
        w, shape = self.weights, self.spec.shape
        is_set = shape["rule"] == CHEAPEST_SET
        head = "policy.head." if is_set else "policy.head.linear."
        output = vector_P @ w[f"{head}weight"].T + w[f"{head}bias"]
        blocks = shape["blocks"]
        if is_set:
            size_M = np.array(self.spec.set_sizes)
            cost_M = (
                output - output[-1] + np.float32(setting) * (size_M / blocks).astype(np.float32)
            )
            is_first_L: Bools = np.arange(blocks) < size_M[cost_M.argmin()]
            return is_first_L
        skip_L, keep_L = output.reshape(blocks, 2).T
        if shape["rule"] == RULES["sigmoids"]:
            skip_L, keep_L = 1 / (1 + np.exp(-skip_L)), 1 / (1 + np.exp(-keep_L))
        decided: Bools = keep_L - skip_L > setting
        return decided


def _normed(x_TD: Floats) -> Floats:
    mean_T1 = x_TD.mean(1, keepdims=True)
    deviation_T1 = np.sqrt(((x_TD - mean_T1) ** 2).mean(1, keepdims=True) + EPSILON)
    normed_TD: Floats = (x_TD - mean_T1) / deviation_T1
    return normed_TD
