"""GRU4Rec: a recurrent network over the items (Hidasi et al., ICLR 2016).

The loss is the cross-entropy of Hidasi & Karatzoglou (CIKM 2018).

    z = sigmoid(W_z x + U_z h);  r = sigmoid(W_r x + U_r h);  n = tanh(W_n x + r * (U_n h))
    h = (1 - z) * n + z * h

This is the cell of torch: the reset gate is applied after its product, and z is 1 - z of the paper.
"""

import torch
from torch import Tensor, nn

from skiprec.config.model import ModelConfig


class Gru4RecEncoder(nn.Module):
    """`num_layers` recurrent layers, with dropout before the first and after the last one only."""

    def __init__(self, width: int, num_layers: int):
        super().__init__()
        # Without a bias, x = 0 and h = 0 give n = 0 and therefore h = 0. The state stays exactly
        # zero through the padding on the left, so the first item starts from an empty state.
        self.gru = nn.GRU(width, width, num_layers, bias=False)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Glorot uniform for the matrix of each gate, as in the authors' code."""
        for gates_ED in self.gru.parameters():
            for gate_DD in gates_ED.chunk(3):
                nn.init.xavier_uniform_(gate_DD, generator=generator)

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """The state of the last layer at each position, zero at padding."""
        states_TBD: Tensor = self.gru(x_TBD)[0]
        return states_TBD


def gru4rec_encoder(config: ModelConfig) -> list[nn.Module]:
    """A list of one module with `config.num_blocks` recurrent layers; the papers use one."""
    return [Gru4RecEncoder(config.width, config.num_blocks)]
