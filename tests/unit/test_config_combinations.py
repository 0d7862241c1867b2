"""Settings that contradict each other are errors, although each is fine alone."""

import pytest

from tests.testkit.configs import BUDGET, COST, GUMBEL, REINFORCE, config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("policy.kind=gumbel",), "decides nothing under"),
        (("policy.kind=gumbel", "training.execution=gathered"), "use 'masked'"),
        ((*GUMBEL, "policy.target_keep_frac=0.5"), "go together"),
        ((*GUMBEL, "policy.budget_weight=0.5"), "go together"),
        ((*GUMBEL, "training.freeze_backbone=true"), "name a pretrained run in init_from"),
        (
            (*GUMBEL, "policy.logits=sigmoid", "policy.initial_keep_prob=0.85"),
            "cannot be reached with policy.logits='sigmoid'",
        ),
        (("policy.kind=fixed", "training.execution=masked"), "needs policy.keep_blocks"),
        (
            ("policy.kind=fixed", "training.execution=masked", "policy.keep_blocks=[16]"),
            r"names \[16\], but the backbone has blocks 0 to 15",
        ),
        (("loss.kind=sampled",), "needs loss.num_negatives"),
        ((*GUMBEL, "policy.budget=user"), "policy.budget has no effect without"),
        ((*GUMBEL, "policy.budget_warmup_frac=0.5"), "policy.budget_warmup_frac has no effect"),
        (
            (*GUMBEL, *BUDGET, "policy.budget=shared", "policy.budget_warmup_frac=0.5"),
            "does not apply to policy.budget='shared'",
        ),
        (
            (*GUMBEL, *BUDGET, "policy.budget=shared", "policy.noise_at_inference=true"),
            "serves decisions with noise",
        ),
        ((*GUMBEL, "evaluation.keep_frac=0.5"), "policy.kind='gumbel' has none"),
        ((*COST, "policy.nest_sizes=[16]"), "offers only the set of all 16 blocks"),
        ((*GUMBEL, "init_from=a", "init_growth=cross"), "grow the backbone in a run of its own"),
        (("policy.kind=reinforce",), "policy.kind='reinforce' decides nothing under"),
        ((*REINFORCE, "policy.prob_bound=0.5"), r"policy.prob_bound: .*greater than 0\.5"),
        (("policy.kind=cost", "policy.nest_sizes=[4]"), "policy.kind='cost' decides nothing under"),
        (
            ("policy.kind=cost", "training.execution=gathered"),
            "policy.kind='cost' needs policy.nest_sizes",
        ),
        ((*COST, "policy.nest_sizes=[]"), r"policy.nest_sizes: .*at least 1"),
        ((*COST, "policy.nest_sizes=[0, 4]"), r"policy.nest_sizes.0: .*greater than 0"),
        ((*COST, "policy.nest_sizes=[8, 4]"), "expected rising numbers of blocks"),
        ((*COST, "policy.nest_sizes=[4, 4]"), "expected rising numbers of blocks"),
        ((*COST, "policy.nest_sizes=[4, 17]"), "but the backbone has 16 blocks"),
        ((*COST, "training.freeze_backbone=true"), "name a pretrained run in init_from"),
        (
            (*GUMBEL, "model.stochastic_depth=0.2"),
            "model.stochastic_depth has no effect with policy.kind='gumbel'",
        ),
        ((*GUMBEL, "policy.guide_weight=1", "model.num_blocks=1"), "no second half"),
        ((*GUMBEL, "policy.reads_after=16"), "leaves no block to decide about"),
        ((*GUMBEL, "policy.reads_after=2", "policy.encoder=gru"), "policy.encoder has no effect"),
        (
            (*COST, "policy.reads_after=8"),
            "every row runs policy.reads_after=8 blocks before the policy decides",
        ),
        ((*GUMBEL, 'policy.features=["length"]'), "no effect without policy.reads_after"),
        (
            (*GUMBEL, "policy.reads_after=2", 'policy.features=["length", "length"]'),
            "names one of them twice",
        ),
        ((*COST, "training.fit_on=held_out"), "would train the backbone on validation rows"),
        (
            ("model.exits=[2, 8]",),
            "expected rising depths, of which the last is model.num_blocks=16",
        ),
        (("model.exits=[8, 2, 16]",), "expected rising depths"),
        (("model.exits=[2, 16]", "model.exit_readout_width=1"), "remove it"),
        (("model.exits=[2, 16]", "model.final_norm=false"), "remove model.final_norm"),
        (
            (*GUMBEL, "model.exits=[2, 16]", "loss.exit_weight=1"),
            "exits are trained in a run without a policy",
        ),
        (("model.exits=[2, 16]", "init_from=a", "init_growth=cross"), "other depths"),
        (
            ("model.exits=[2, 16]", "loss.distillation=0.0", "loss.teacher=mean"),
            "loss.teacher has no effect with loss.distillation=0",
        ),
        (
            ("model.exits=[2, 16]", "loss.exits_from=0.9"),
            r"from loss.exits_from=0.9 over 0.2 .* never reaches its weight",
        ),
        (
            ("model.exits=[2, 8, 16]", "loss.exits_per_step=all"),
            "loss.exits_per_step has no effect with the 2 shallower exits",
        ),
        (
            (*GUMBEL, *BUDGET, "policy.reads_after=12"),
            "policy.target_keep_frac=0.5 cannot be reached, because every row runs",
        ),
        (
            (*COST, "policy.nest_sizes=[4]", "policy.target_keep_frac=0.2"),
            "policy.target_keep_frac=0.2 cannot be reached, because the smallest of",
        ),
        (
            (*GUMBEL, "policy.learn_from=last_position", "loss.last_position_weight=1"),
            "once for each position",
        ),
        (("training.engine=torch", "cluster.num_workers=2"), "single-process reference"),
        (("training.engine=torch", "cluster.zero_stage=1"), "single-process reference"),
        (("cluster.num_workers=0",), "no process group for DeepSpeed"),
    ],
)
def test_combinations_that_cannot_be_meant_are_errors(
    overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config(*overrides)
