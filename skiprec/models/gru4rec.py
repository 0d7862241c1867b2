"""GRU4Rec: a recurrent network over the items (Hidasi et al., ICLR 2016; with the cross-entropy of
Hidasi & Karatzoglou, CIKM 2018).

    z = sigmoid(W_z x + U_z h);  r = sigmoid(W_r x + U_r h);  n = tanh(W_n x + r * (U_n h))
    h = (1 - z) * n + z * h

torch's form of the cell: the reset gate comes after its product, and z is the paper's 1 - z.
"""

import torch
from torch import Tensor, nn

from skiprec.config.model import ModelConfig


class Gru4RecEncoder(nn.Module):
    """`num_layers` recurrent layers; dropout stands before the first and after the last alone."""

    def __init__(self, width: int, num_layers: int):
        super().__init__()
        # Without bias, x = 0 and h = 0 give n = 0 and so h = 0: through the padding on the left
        # the state stays exactly zero, and the first item meets the state of an empty history.
        self.gru = nn.GRU(width, width, num_layers, bias=False)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Each gate's matrix uniform as Glorot's, as the authors."""
        for stacked_GDD in self.gru.parameters():
            for gate_DD in stacked_GDD.chunk(3):
                nn.init.xavier_uniform_(gate_DD, generator=generator)

    def forward(self, x_TBD: Tensor, is_item_TB1: Tensor) -> Tensor:
        """The last layer's state at each position, zero at padding."""
        states_TBD: Tensor = self.gru(x_TBD)[0]
        return states_TBD


def gru4rec_encoder(config: ModelConfig) -> list[nn.Module]:
    """`config.num_blocks` counts recurrent layers; the papers have one."""
    return [Gru4RecEncoder(config.width, config.num_blocks)]
