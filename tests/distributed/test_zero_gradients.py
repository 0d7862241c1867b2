"""At every ZeRO stage, the gradient is the exact mean over the global batch.

This also holds if ranks keep different blocks, and if a block gets no row at all on one rank.
"""

import itertools
from functools import cache
from typing import Any

import pytest
import torch

from cluster.training.deepspeed_config import deepspeed_config
from cluster.training.deepspeed_engine import DeepSpeedEngine, prepare_process
from skiprec.config.files import parse_config
from skiprec.config.run import RunConfig
from skiprec.network import SkipRecNetwork
from skiprec.training.collectives import ProcessGroup, SingleProcess
from skiprec.training.engine import TorchEngine
from skiprec.training.loop import run_step
from skiprec.training.objective import Objective
from skiprec.training.plan import StepPlan
from skiprec.training.stochastic_depth import kept_at_random
from skiprec.types import Batch
from tests.testkit.networks import LEARNED, POLICY_OPTIONS, execution_of, take_rows
from tests.testkit.ranks import run_ranks

pytestmark = pytest.mark.slow  # test_engines.py trains at every stage in `make test`
NUM_ITEMS, ROWS, WINDOW = 50, 6, 9
PLAN = StepPlan(total_steps=1, log_every=1, validate_every=None, checkpoint_every=None)


GUMBEL = {"kind": "gumbel", "width": 8, "target_keep_frac": 0.3, "budget_weight": 2.0}
REINFORCE = {"kind": "reinforce", "width": 8, "initial_keep_prob": 0.4, "reward_cut": 25}
SASREC = {"backbone": "sasrec_plus", "num_heads": 2}
# Of each run: its execution, its policy and what its model has of its own.
RUNS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "random": ("gathered", {"kind": "random", "keep_frac": 0.4}, {}),
    "gumbel": ("masked", GUMBEL, {}),
    "personal": (
        "masked",
        {
            **GUMBEL,
            "budget": "shared",
            "entropy_weight": 0.5,
            "information_weight": 0.5,
            "guide_weight": 0.5,
        },
        {},
    ),
    "reinforce": ("gathered", REINFORCE, {}),
    "cost": (
        "gathered",
        {"kind": "cost", "width": 8, "nest_sizes": [1, 2, 3, 5], "explore_frac": 0.5},
        {},
    ),
    "stochastic depth": (
        "dense",
        {"kind": "none"},
        {"stochastic_depth": 0.9, "final_norm": True, "tied_items": True},
    ),
    "exits": ("dense", {"kind": "none"}, {"exits": [1, 3, 4, 6], "stochastic_depth": 0.5}),
    "readouts": (
        "dense",
        {"kind": "none"},
        {
            "exits": [1, 3, 4, 6],
            "exit_readouts": True,
            "stochastic_depth": 0.5,
            "initial_scale": 20.0,  # a norm of small states would have gradients of 20
        },
    ),
    "early state": (
        "gathered",
        {
            "kind": "cost",
            "width": 8,
            "nest_sizes": [2, 5],
            "reads_after": 2,
            "features": ["state", "length", "entropy"],
        },
        {"exits": [1, 2, 5, 6], "exit_readouts": True},
    ),
    "HSTU": (
        "dense",
        {"kind": "none"},
        {
            "backbone": "hstu",
            "num_heads": 2,
            "cosine_temperature": 0.1,
            "tied_items": True,
            "final_norm": True,
            "time": "request",
        },
    ),
    "LiGR": ("dense", {"kind": "none"}, {"backbone": "ligr", "num_heads": 2, "final_norm": True}),
    "SASRec+ and a GRU": ("gathered", {**REINFORCE, "encoder": "gru"}, SASREC),
    "SASRec+ and attention": (
        "masked",
        {**GUMBEL, "encoder": "attention", "own_embedding": True, "learn_from": "last_position"},
        SASREC,
    ),
}
EXIT_LOSS = {"exit_positions": 0.9, "distillation_ramp": 0.0}
LOSSES = {"exits": EXIT_LOSS, "readouts": EXIT_LOSS}
# Of a learned kind that has no entry above: as it is built by default.
RUNS |= {
    kind: (execution_of(kind), {"kind": kind, **POLICY_OPTIONS.get(kind, {})}, {})
    for kind in LEARNED
    if kind not in RUNS
}


def config(run: str, zero_stage: int, num_workers: int, micro: int | None) -> RunConfig:
    execution, policy, model = RUNS[run]
    return parse_config(
        {
            "name": "exact",
            "data": {"path": "unused"},
            "model": {"num_blocks": 6, "width": 16, "dropout": 0.1, **model},
            "policy": policy,
            "loss": LOSSES.get(run, {}),
            "training": {
                "global_batch_rows": ROWS,
                "micro_batch_rows": micro,
                "execution": execution,
            },
            "cluster": {"zero_stage": zero_stage, "num_workers": num_workers},
        },
        "test",
    )


def rows() -> Batch:
    generator = torch.Generator().manual_seed(3)
    items = torch.randint(1, NUM_ITEMS + 1, (ROWS, WINDOW), generator=generator)
    items[0, :5] = 0  # targets are unevenly spread over rows, and so over ranks
    gaps = torch.randint(10**6, (ROWS, WINDOW), generator=generator) ** 2
    times = torch.where(items == 0, 0, gaps.cumsum(1))
    return Batch(items, torch.arange(ROWS) * 7919 + 5, times)


def plain_network(settings: RunConfig) -> SkipRecNetwork:
    network = SkipRecNetwork(settings.model, settings.policy, NUM_ITEMS)
    network.reset_parameters(1)
    with torch.no_grad():
        for name, value in network.stack.named_parameters():
            if name.split(".")[-1].startswith("scale"):
                value.fill_(0.5)  # at 0 the blocks' own gradients vanish
    return network


def sgd(network: SkipRecNetwork) -> torch.optim.SGD:
    """One step of rate 1 moves each weight by minus its gradient."""
    group = {"params": list(network.parameters()), "name": "all", "base_lr": 1.0}
    return torch.optim.SGD([group], lr=1.0)


@cache
def reference_gradient(run: str) -> dict[str, torch.Tensor]:
    settings = config(run, 0, 1, None)
    network = plain_network(settings)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    engine = TorchEngine(
        Objective(network, settings), sgd(network), settings.training, torch.device("cpu")
    )
    run_step(settings, PLAN, engine, [rows()], SingleProcess(), 0)
    return {name: before[name] - value for name, value in network.state_dict().items()}


def gradient_on_rank(
    run: str, zero_stage: int, micro: int | None, call_every_block: bool
) -> dict[str, torch.Tensor] | None:
    prepare_process(use_gpu=False)
    comm = ProcessGroup()
    settings = config(run, zero_stage, comm.world_size, micro)
    network = plain_network(settings)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    share = ROWS // comm.world_size
    passes = 1 if micro is None else share // micro
    batch = rows()
    batches = []
    for part in range(passes):
        start = comm.rank * share + part * share // passes
        stop = comm.rank * share + (part + 1) * share // passes
        batches.append(take_rows(batch, slice(start, stop)))
    engine = DeepSpeedEngine(
        Objective(network, settings),
        sgd(network),
        deepspeed_config(settings.training, settings.cluster, passes, comm.world_size),
        settings.training,
        torch.device("cpu"),
    )
    if not call_every_block:
        gathered = network.stack.gathered
        network.stack.gathered = lambda x, m, k, keep, _, part: gathered(x, m, k, keep, False, part)
    run_step(settings, PLAN, engine, batches, comm, 0)
    after = engine.network_weights()
    return None if after is None else {name: before[name] - after[name] for name in after}


def worst_difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max((found[name] - expected[name]).abs().max().item() for name in expected)


@pytest.mark.parametrize(
    "run", ["random", "reinforce", "cost", "stochastic depth", "SASRec+ and a GRU"]
)
def test_the_rows_keep_different_blocks_on_the_two_ranks(run: str) -> None:
    settings = config(run, 0, 1, None)
    network = plain_network(settings).train()
    batch = rows()
    decision = network.decide(network.embed_batch(batch), 0.0)
    if decision is None:
        decision = kept_at_random(batch.key_B, 0.9, 6)
    on_rank = decision.keep_BL.view(2, ROWS // 2, -1).sum(1)
    empty_on_one = (on_rank == 0).any(0) & (on_rank > 0).any(0)
    assert empty_on_one.any(), "no block is empty on one rank alone"


@pytest.mark.parametrize("run", RUNS)
def test_each_part_has_something_to_learn(run: str) -> None:
    """Without this, equal gradients could all be zero."""
    gradient = reference_gradient(run)
    parts = ["stack", "embedding", "head"]
    if RUNS[run][1]["kind"] not in ("random", "none"):
        parts.append("policy")
    for part in parts:
        assert max(g.abs().max() for n, g in gradient.items() if n.startswith(part)) > 1e-4, part
    assert run != "personal" or gradient["policy.price_1"].abs() > 1e-3


CASES = [
    (run, zero_stage, micro)
    for zero_stage in (0, 1, 2, 3)
    for run, micro in (
        ("random", None),
        ("personal", 1),
        ("stochastic depth", None),
        ("stochastic depth", 1),
        ("exits", 1),
        ("readouts", 1),
        ("early state", None),
        ("HSTU", None),
        ("LiGR", None),
        ("SASRec+ and a GRU", None),
        ("SASRec+ and attention", None),
        *itertools.product(LEARNED, (None, 1)),
    )
]


def gradients_on_rank() -> list[dict[str, torch.Tensor] | None]:
    return [gradient_on_rank(*case, True) for case in CASES]


@pytest.fixture(scope="module")
def gradients() -> list[dict[str, torch.Tensor]]:
    return run_ranks(gradients_on_rank, 2)[0]


@pytest.mark.parametrize("case", range(len(CASES)), ids=[str(case) for case in CASES])
def test_gradient_is_the_exact_mean(case: int, gradients: list[dict[str, torch.Tensor]]) -> None:
    assert worst_difference(gradients[case], reference_gradient(CASES[case][0])) < 1e-6


def test_ranks_that_skip_calls_get_wrong_gradients_or_fail() -> None:
    """The negative control: why training always calls every block."""
    try:
        found = run_ranks(gradient_on_rank, 2, "random", 1, None, False)[0]
    except Exception as error:
        failure = str(error)
    else:
        assert worst_difference(found, reference_gradient("random")) > 1e-4
        return
    assert "TypeError" not in failure, "the control must not fail by its own fault"
