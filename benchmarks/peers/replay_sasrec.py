"""replay-rec's SASRec, 2 blocks of width 64, random weights, compiled by its own call of OpenVINO.

    python replay_sasrec.py ITEMS WINDOW [f32]

OpenVINO multiplies in bf16 where the processor can; `f32` keeps it at float32.
"""

import importlib.metadata
import sys
import warnings
from functools import partialmethod

warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import openvino  # noqa: E402
import torch  # noqa: E402
from protocol import Answer, serve  # noqa: E402
from replay.data import FeatureHint, FeatureSource, FeatureType  # noqa: E402
from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema  # noqa: E402
from replay.models.nn.sequential import SasRec  # noqa: E402
from replay.models.nn.sequential.compiled import SasRecCompiled  # noqa: E402


def main(num_items: int, window: int, *precision: str) -> None:
    torch.set_num_threads(1)
    if precision:
        compile_model = openvino.Core.compile_model
        settings = {"INFERENCE_PRECISION_HINT": precision[0]}
        openvino.Core.compile_model = partialmethod(compile_model, config=settings)
    source = TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")
    feature = TensorFeatureInfo(
        "item_id",
        FeatureType.CATEGORICAL,
        is_seq=True,
        feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[source],
        cardinality=num_items,
        embedding_dim=64,
    )
    model = SasRec(
        TensorSchema([feature]), block_count=2, head_count=1, hidden_size=64, max_seq_len=window
    )

    def make_answer(batch: int) -> Answer:
        mode = "one_query" if batch == 1 else "batch"
        compiled = SasRecCompiled.compile(model, mode=mode, batch_size=batch, num_threads=1)

        def answer(items_BT: np.ndarray) -> np.ndarray:
            rows = torch.from_numpy(items_BT - 1)  # its ids begin at 0
            inputs = {"feature_tensor": {"item_id": rows}, "padding_mask": rows >= 0}
            return compiled.predict(inputs).topk(20).indices.numpy() + 1

        return answer

    version = importlib.metadata.version("replay-rec")
    serve(f"replay-rec {version}, compiled SASRec {' '.join(precision)}".strip(), make_answer)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
