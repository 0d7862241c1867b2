"""Each baseline against the formula of its paper, in loops and in float64."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from skiprec.models import nfm
from skiprec.models.caser import LENGTH, NUM_HORIZONTAL, NUM_VERTICAL, CaserEncoder
from skiprec.models.gru4rec import Gru4RecEncoder
from skiprec.scores import Scores
from skiprec.training.losses import Negatives, full_softmax, sampled_softmax
from tests.testkit.networks import NUM_ITEMS, WIDTH

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def noisy(module: nn.Module, seed: int = 0) -> nn.Module:
    """The weights are large enough for every gate and relu to matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.double().parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.5 * noise)
    return module


def inputs(positions: int = 7, rows: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(9)
    is_item_TB1 = torch.ones(positions, rows, 1, dtype=torch.float64)
    for row in range(rows):
        is_item_TB1[: min(row, positions), row] = 0
    x_TBD = torch.randn(positions, rows, WIDTH, dtype=torch.float64, generator=generator)
    return x_TBD * is_item_TB1, is_item_TB1


def obvious_gru(encoder: Gru4RecEncoder, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
    """The recurrence of each row and layer, over the real items only."""
    out_TBD = torch.zeros_like(x_TBD)
    for row in range(x_TBD.shape[1]):
        real_T = is_item_TB1[:, row, 0] == 1
        states_TD = x_TBD[real_T, row]
        for layer in range(encoder.gru.num_layers):
            W_r, W_z, W_n = getattr(encoder.gru, f"weight_ih_l{layer}").chunk(3)
            U_r, U_z, U_n = getattr(encoder.gru, f"weight_hh_l{layer}").chunk(3)
            h_D, states = torch.zeros(WIDTH, dtype=torch.float64), []
            for x_D in states_TD:
                r_D = torch.sigmoid(W_r @ x_D + U_r @ h_D)
                z_D = torch.sigmoid(W_z @ x_D + U_z @ h_D)
                n_D = torch.tanh(W_n @ x_D + r_D * (U_n @ h_D))
                h_D = (1 - z_D) * n_D + z_D * h_D
                states.append(h_D)
            states_TD = torch.stack(states)
        out_TBD[real_T, row] = states_TD
    return out_TBD


@pytest.mark.parametrize("num_layers", [1, 3])
def test_gru4rec_equals_its_formula(num_layers: int) -> None:
    encoder = noisy(Gru4RecEncoder(WIDTH, num_layers))
    x_TBD, is_item_TB1 = inputs()
    expected = obvious_gru(encoder, x_TBD, is_item_TB1)
    torch.testing.assert_close(encoder(x_TBD, is_item_TB1), expected, **EXACT)
    other = noisy(Gru4RecEncoder(WIDTH, num_layers), seed=1)
    assert not torch.allclose(other(x_TBD, is_item_TB1), expected, atol=1e-2)


def test_a_recurrent_layer_with_bias_would_leave_zero_in_the_padding() -> None:
    """The control: with a bias, the state would not stay zero through padding."""
    x_TBD, is_item_TB1 = inputs()
    is_padding_TB = is_item_TB1[:, :, 0] == 0
    encoder = noisy(Gru4RecEncoder(WIDTH, 1))
    assert (encoder(x_TBD, is_item_TB1)[is_padding_TB] == 0).all()
    encoder.gru = noisy(nn.GRU(WIDTH, WIDTH))
    assert (encoder(x_TBD, is_item_TB1)[is_padding_TB] != 0).all()


def obvious_caser(encoder: CaserEncoder, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
    """Caser, computed for one image, one filter and one place at a time."""
    out_TBD = torch.zeros_like(x_TBD)
    for t, row in is_item_TB1[:, :, 0].nonzero().tolist():
        image_LD = torch.zeros(LENGTH, WIDTH, dtype=torch.float64)
        for place in range(LENGTH):
            if t - place >= 0:
                image_LD[LENGTH - 1 - place] = x_TBD[t - place, row]
        values = []
        for height in range(1, LENGTH + 1):
            filters = encoder.horizontal[height - 1]
            weight_DHF = filters.weight_CF.view(WIDTH, height, NUM_HORIZONTAL)
            for f in range(NUM_HORIZONTAL):
                values.append(
                    max(
                        torch.relu(
                            (image_LD[top : top + height].t() * weight_DHF[:, :, f]).sum()
                            + filters.bias_F[f]
                        )
                        for top in range(LENGTH - height + 1)
                    )
                )
        for channel in range(WIDTH):
            for f in range(NUM_VERTICAL):
                values.append(image_LD[:, channel] @ encoder.vertical_LF[:, f])
        product_D = torch.stack(values) @ encoder.weight_CD + encoder.bias_D
        out_TBD[t, row] = torch.relu(product_D)
    return out_TBD


@pytest.mark.parametrize("positions", [1, 2, 7])
def test_caser_equals_its_formula_with_gradients(positions: int) -> None:
    """Some histories are shorter than the image. The gradient at padding is not compared.

    The embedding drops that gradient. It is not unique, because filters tie on images of padding.
    """
    results = []
    for function in (CaserEncoder.__call__, obvious_caser):
        encoder = noisy(CaserEncoder(WIDTH))
        x_TBD, is_item_TB1 = inputs(positions)
        x_TBD.requires_grad_()
        out_TBD = function(encoder, x_TBD, is_item_TB1)
        weight = torch.linspace(-1, 2, out_TBD.numel(), dtype=torch.float64).view_as(out_TBD)
        (out_TBD * weight).sum().backward()
        grad_TBD = x_TBD.grad * is_item_TB1
        results.append([out_TBD, grad_TBD, *[p.grad for p in encoder.parameters()]])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, **EXACT)
    assert results[1][0].max() > 0.1


def test_the_formula_tells_another_filter_apart() -> None:
    """The control of the comparison above: every group of filters matters."""
    x_TBD, is_item_TB1 = inputs()
    for name, _ in CaserEncoder(WIDTH).named_parameters():
        encoder = noisy(CaserEncoder(WIDTH))
        expected = obvious_caser(encoder, x_TBD, is_item_TB1)
        with torch.no_grad():
            encoder.get_parameter(name).add_(0.1)
        assert not torch.allclose(encoder(x_TBD, is_item_TB1), expected, atol=1e-4), name


def obvious_nfm(head: nfm.NfmHead, history: list[Tensor], item: int) -> Tensor:
    """All pairs of features, one by one; a history of n items has features of value 1 / sqrt(n)."""
    features = [v_D / len(history) ** 0.5 for v_D in history] + [head.weight_VD[item - 1]]
    bi_D = torch.zeros(WIDTH, dtype=torch.float64)
    for first in range(len(features)):
        for second in range(first + 1, len(features)):
            bi_D = bi_D + features[first] * features[second]
    layer_H = torch.relu(head.hidden_HD @ bi_D + head.hidden_bias_H)
    return head.output_H @ layer_H + head.bias_V[item - 1]


def nfm_problem() -> tuple[nfm.NfmHead, Tensor, Tensor]:
    """A head, encoded histories, and the formula's score of every item for each."""
    head = noisy(nfm.NfmHead(NUM_ITEMS, WIDTH))
    x_TBD, is_item_TB1 = inputs()
    real_TB = is_item_TB1[:, :, 0] == 1
    rows = []
    for t, row in real_TB.nonzero().tolist():
        history = [x_TBD[i, row] for i in range(t + 1) if real_TB[i, row]]
        scores = [obvious_nfm(head, history, item) for item in range(1, NUM_ITEMS + 1)]
        rows.append(torch.stack(scores))
    expected_NV = torch.stack(rows).detach()
    return head, nfm.NfmEncoder()(x_TBD, is_item_TB1)[real_TB], expected_NV


def test_nfm_equals_the_sum_over_pairs_of_features() -> None:
    head, x_NC, expected_NV = nfm_problem()
    item_N = torch.arange(len(x_NC)) % NUM_ITEMS + 1
    item_S = torch.tensor([3, 1, 30, 3])
    own_N = head(x_NC, lambda x, scores: scores.own(x, item_N))
    shared_NS = head(x_NC, lambda x, scores: scores.shared(x, item_S))
    torch.testing.assert_close(own_N, expected_NV[range(len(x_NC)), item_N - 1], **EXACT)
    torch.testing.assert_close(shared_NS, expected_NV[:, item_S - 1], **EXACT)
    columns_NI = head(x_NC, lambda x, scores: scores.columns(x, 4, 20))
    assert columns_NI.dtype == torch.float32
    torch.testing.assert_close(columns_NI, expected_NV[:, 4:20].float(), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(columns_NI, expected_NV[:, 5:21].float(), atol=0.1)


@pytest.mark.parametrize(("max_hidden", "block_items"), [(1, 4096), (100, 7), (10**9, 7)])
def test_scores_in_pieces_are_the_same(
    max_hidden: int, block_items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, x_NC, expected_NV = nfm_problem()
    monkeypatch.setattr(nfm, "MAX_HIDDEN", max_hidden)
    monkeypatch.setattr(nfm, "BLOCK_ITEMS", block_items)
    actual_NV = head(x_NC, lambda x, scores: scores.columns(x, 0, NUM_ITEMS))
    torch.testing.assert_close(actual_NV, expected_NV.float(), rtol=1e-4, atol=1e-4)
    assert actual_NV.is_contiguous(), "a top-k search views the scores in groups of items"


def test_pieces_are_no_larger_than_they_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    head, x_NC, _ = nfm_problem()
    sizes = []

    def counted(x_ND: Tensor, weight_ID: Tensor, *layer: Tensor) -> Tensor:
        sizes.append(len(x_ND) * len(weight_ID) * WIDTH)
        return plain(x_ND, weight_ID, *layer)

    plain: Callable[..., Tensor] = nfm.layer_scores
    monkeypatch.setattr(nfm, "layer_scores", counted)
    monkeypatch.setattr(nfm, "MAX_HIDDEN", 3 * 7 * WIDTH)
    monkeypatch.setattr(nfm, "BLOCK_ITEMS", 7)
    head(x_NC, lambda x, scores: scores.columns(x, 0, NUM_ITEMS))
    assert max(sizes) == 3 * 7 * WIDTH
    assert sum(sizes) == len(x_NC) * NUM_ITEMS * WIDTH


def test_nfm_learns_from_samples_and_refuses_the_full_loss() -> None:
    head, x_NC, expected_NV = nfm_problem()
    target_N = torch.arange(len(x_NC)) % NUM_ITEMS + 1
    with pytest.raises(ValueError, match=r"set loss\.kind='sampled' and loss\.num_negatives"):
        head(x_NC, partial(full_softmax, target_N=target_N))
    negative_S = torch.tensor([2, 7, 7, 30])

    def of_table(x_ND: Tensor, scores: Scores) -> Tensor:
        return sampled_softmax(
            x_ND, scores, target_N=target_N, negatives=Negatives(negative_S[None])
        )

    class Table:
        num_items = NUM_ITEMS

        def own(self, x_ND: Tensor, item_N: Tensor) -> Tensor:
            return expected_NV[range(len(x_ND)), item_N - 1]

        def shared(self, x_ND: Tensor, item_S: Tensor) -> Tensor:
            return expected_NV[:, item_S - 1]

    actual = head(x_NC, of_table)
    torch.testing.assert_close(actual, of_table(x_NC, Table()), rtol=1e-5, atol=1e-5)
    actual.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in head.parameters())
