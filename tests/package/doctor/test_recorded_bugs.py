"""diagnose names the bugs whose price is recorded, in the pipelines that are trained."""

import pytest
from pipelines import codes, small
from torchrl.objectives import SoftUpdate

from benchmarks.bugs import PLANTED, Bug, planted_parts, train_with
from recdqn import diagnose, train


def test_without_a_bug_it_is_the_packages_training():
    cfg = small().replace(train={"total_frames": 2_000, "eval_every": 8})
    ours, theirs = train(cfg, progress=False), train_with(Bug(()), cfg)
    assert len(ours.metrics) > 2
    for one, other in zip(ours.metrics, theirs.metrics, strict=True):
        assert {key: value for key, value in one.items() if key != "seconds"} == other


@pytest.mark.parametrize("name", PLANTED)
def test_diagnose_names_the_bug_of_a_training_run(name):
    bug = PLANTED[name]
    cfg = small().replace(replay={"capacity": 400 if name == "slice-over-cursor" else 2_000})
    cfg = cfg.replace(**bug.settings)
    with planted_parts(bug, cfg) as parts:
        own_target = name != "target-is-online"
        updater = SoftUpdate(parts.learner.loss, tau=cfg.loss.tau) if own_target else None
        for _ in parts.collector:
            parts.learner.policy[-1].step(cfg.train.frames_per_batch)
            bug.evaluated(parts.env, parts.policy)
        report = diagnose(
            env=parts.env,
            policy=bug.judged(parts.policy),
            buffer=parts.buffer,
            loss=parts.learner.loss,
            updater=updater,
        )
    assert codes(report) == list(bug.found)
