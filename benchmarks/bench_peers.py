"""Compares the native executor with other libraries that answer the same histories.

Each library runs as a program in its own environment, on one thread, with a network of the same
blocks and width, random weights, and full histories; programs take turns. The time of a user is
from a history as an array to the 20 best items. Ahead means more users a second, and a smaller p99
of the time of a batch.

    recbole/bin/pip install torch recbole==1.2.1
    replay/bin/pip install torch 'replay-rec[torch]==0.22.0' openvino onnx
    python benchmarks/bench_peers.py --recbole recbole/bin/python --replay replay/bin/python

Without an interpreter the rows of its library are printed as not run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pairing import conditions
from peers.protocol import timed

from skiprec.config.model import ModelConfig
from skiprec.inference.native.from_network import NativeNetwork
from skiprec.inference.native.library import levels
from skiprec.network import SkipRecNetwork
from skiprec.policy.kinds import policy_section

FOLDER = Path(__file__).parent / "peers"
WINDOW, USERS, ROUNDS, BATCHES = 50, 512, 8, (1, 64)
CATALOGUES = (4_000, 54_000)


@dataclass(frozen=True)
class Peer:
    """A program of another library, and the model of ours that is like it."""

    option: str
    program: str
    backbone: str
    blocks: int
    arguments: tuple[str, ...] = ()


PEERS = (
    Peer("recbole", "recbole_nextitnet.py", "nextitnet", 10),
    Peer("replay", "replay_sasrec.py", "sasrec_plus", 2, ("f32",)),
    Peer("replay", "replay_sasrec.py", "sasrec_plus", 2),
)


class Program:
    """A running program of a peer."""

    def __init__(self, python: str, peer: Peer, num_items: int):
        command = [python, str(FOLDER / peer.program), str(num_items), str(WINDOW)]
        command += peer.arguments
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.name = self._read()["name"]

    def seconds(self, histories: Path, batch: int) -> list[float]:
        """Of each batch."""
        assert self.process.stdin is not None
        request = {"histories": str(histories), "batch": batch}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        seconds: list[float] = self._read()["seconds"]
        return seconds

    def _read(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.process.args} ended with code {self.process.wait()}")

    def end(self) -> None:
        self.process.communicate()


def native_answers(peer: Peer, num_items: int, batch: int) -> dict[str, Any]:
    """All blocks of our network, and half of them, drawn for each user."""
    model = ModelConfig(backbone=peer.backbone, num_blocks=peer.blocks, width=64)
    network = SkipRecNetwork(model, policy_section("none"), num_items)
    network.reset_parameters(0)
    native = NativeNetwork(network.eval(), WINDOW).model
    ends_B = np.arange(1, batch + 1) * WINDOW
    place_BL = np.random.default_rng(1).random((batch, peer.blocks)).argsort(1)

    def answer(items_BT: NDArray[np.int64], keep_BL: NDArray[np.bool_]) -> NDArray[np.int32]:
        item_N = items_BT.astype(np.int32).ravel()
        best: NDArray[np.int32] = native.recommend(item_N, ends_B, 20, False, keep_BL).items_BK
        return best

    return {
        "all blocks": partial(answer, keep_BL=place_BL >= 0),
        "half of them": partial(answer, keep_BL=place_BL < round(0.5 * peer.blocks)),
    }


def compare(program: Program, peer: Peer, num_items: int, histories: Path, batch: int) -> bool:
    """Prints a row for each of our arms; returns whether all are ahead."""
    items_NT = np.load(histories)
    arms = native_answers(peer, num_items, batch)
    theirs: list[list[float]] = []
    ours: dict[str, list[list[float]]] = {name: [] for name in arms}
    for index in range(-1, ROUNDS):
        found = program.seconds(histories, batch)
        for name, answer in arms.items():
            own = list(timed(answer, items_NT, batch))
            if index >= 0:
                ours[name].append(own)
        if index >= 0:
            theirs.append(found)
    ahead = True
    for name, rounds in ours.items():
        pairs = zip(theirs, rounds, strict=True)
        faster = float(np.median([sum(their) / sum(own) for their, own in pairs]))
        p99, own_p99 = np.quantile(np.concatenate(theirs), 0.99), np.quantile(rounds, 0.99)
        rates = [batch / float(np.mean(some)) for some in (theirs, rounds)]
        holds = faster > 1 and own_p99 < p99
        ahead &= holds
        print(
            f"| {program.name} | {num_items:,} | {batch} | {peer.blocks} {peer.backbone}, {name} "
            f"| {rates[0]:,.0f} | {rates[1]:,.0f} | {faster:.1f} | {1e3 * p99:.2f} "
            f"| {1e3 * own_p99:.2f} | {'ahead' if holds else 'NOT AHEAD'} |",
            flush=True,
        )
    return ahead


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    for option in dict.fromkeys(peer.option for peer in PEERS):
        parser.add_argument(
            f"--{option}", metavar="PYTHON", help="an interpreter that has the library"
        )
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(f"{conditions()}, {levels()[0]}, window {WINDOW}, {ROUNDS} rounds in turns\n")
    print("| library | items | batch | ours | users/s | ours | ratio | p99 ms | ours | |")
    print("|---|---:|---:|---|---:|---:|---:|---:|---:|---|")
    ahead = True
    with tempfile.TemporaryDirectory() as folder:
        for peer in PEERS:
            python = getattr(arguments, peer.option)
            if python is None:
                print(f"| {peer.program} | | | not run: give --{peer.option} PYTHON | | | | | | |")
                continue
            for num_items in CATALOGUES:
                histories = Path(folder) / f"{num_items}.npy"
                draw = np.random.default_rng(0)
                np.save(histories, draw.integers(1, num_items + 1, (USERS, WINDOW)))
                program = Program(python, peer, num_items)
                for batch in BATCHES:
                    ahead &= compare(program, peer, num_items, histories, batch)
                program.end()
    return 0 if ahead else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
