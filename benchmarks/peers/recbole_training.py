"""Trains RecBole's NextItNet on an atomic file, with RecBole's settings, until its early stopping.

python recbole_training.py DATA OUTPUT INPUTS SECONDS

DATA holds a folder `log` with `log.inter`. Prints a line of JSON after each validation: the epoch,
the processor's seconds of training until then, without validations, on one thread, and MRR@20 of
the validation rows. It ends earlier when SECONDS of training have passed.
"""

import json
import sys
import time
from typing import Any

import recbole
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

SETTINGS = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "train_neg_sample_args": None,  # the full softmax, as in RecBole's guide to NextItNet
    "metrics": ["MRR"],
    "topk": [20],
    "valid_metric": "MRR@20",
    "eval_batch_size": 4096,
    "show_progress": False,
    "use_gpu": False,
    "state": "ERROR",
}


class OutOfTimeError(Exception):
    """The time given has passed."""


def main(data: str, output: str, num_inputs: int, limit_s: float) -> None:
    torch.set_num_threads(1)
    paths = {"data_path": data, "checkpoint_dir": output}
    config = Config(
        model="NextItNet",
        dataset="log",
        config_dict=SETTINGS | paths | {"MAX_ITEM_LIST_LENGTH": num_inputs},
    )
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train, validation, _ = data_preparation(config, dataset)
    model = get_model(config["model"])(config, train.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    name = f"RecBole {recbole.__version__}, NextItNet of {2 * config['block_num']} residual blocks"
    rows = [len(train.dataset), len(validation.dataset)]
    print(json.dumps({"name": name, "items": dataset.item_num - 1, "rows": rows}), flush=True)
    seconds = 0.0
    train_epoch = trainer._train_epoch

    def timed_epoch(*args: Any, **options: Any) -> Any:
        nonlocal seconds
        started = time.process_time()
        loss = train_epoch(*args, **options)
        seconds += time.process_time() - started
        return loss

    def validated(epoch: int, mrr: float) -> None:
        point = {"epoch": epoch + 1, "seconds": seconds, "mrr@20": float(mrr)}
        print(json.dumps(point), flush=True)
        if seconds > limit_s:
            raise OutOfTimeError

    trainer._train_epoch = timed_epoch

    try:
        trainer.fit(train, validation, saved=False, callback_fn=validated)
    except OutOfTimeError:
        print(json.dumps({"stopped": f"{limit_s:.0f} s have passed"}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
