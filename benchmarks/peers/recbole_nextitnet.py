"""RecBole's NextItNet of 10 residual blocks of width 64 and random weights, as users call it.

python recbole_nextitnet.py ITEMS WINDOW
"""

import sys
from types import SimpleNamespace

import numpy as np
import recbole
import torch
from protocol import serve
from recbole.model.sequential_recommender import NextItNet

SETTINGS = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
    "NEG_PREFIX": "neg_",
    "device": "cpu",
    "loss_type": "CE",
    "embedding_size": 64,
    "block_num": 5,
    "dilations": [1, 4],
    "kernel_size": 3,
    "reg_weight": 1e-5,
}


def main(num_items: int, window: int) -> None:
    torch.set_num_threads(1)
    dataset = SimpleNamespace(num=lambda field: num_items + 1)
    model = NextItNet(SETTINGS | {"MAX_ITEM_LIST_LENGTH": window}, dataset).eval()

    @torch.inference_mode()
    def answer(items_BT: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(items_BT)
        score_BV = model.full_sort_predict({"item_id_list": rows})
        score_BV[:, 0] = -torch.inf  # padding
        return score_BV.topk(20).indices.numpy()

    serve(f"RecBole {recbole.__version__}, NextItNet", lambda batch: answer)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
