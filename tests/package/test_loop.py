"""The order of collections, updates and evaluations, with parts that only count."""

import dataclasses
from itertools import islice, repeat
from types import SimpleNamespace

import pytest
import torch
from torchrl.modules import EGreedyModule

from recdqn.config import Config
from recdqn.evaluation import Evaluation
from recdqn.loop import Progress, loop, lower_epsilon


class CountingLearner:
    """Counts updates; the k-th one has the loss k."""

    def __init__(self, cfg):
        self.cfg, self.updates, self.annealed = cfg, 0, []
        self.policy = [None, EGreedyModule(None, 1.0, 0.0, annealing_num_steps=640)]

    def update(self, batch):
        self.updates += 1
        return float(self.updates), 20.0 if self.updates % 2 else 1.0

    def anneal(self, frames):
        self.annealed.append(frames)


@pytest.fixture
def cfg():
    """5 collections of 64 frames, updates from the second one on, evaluations after 2, 4 and 5."""
    train = {"total_frames": 350, "warmup_frames": 100, "updates": 3, "eval_every": 2, "max_grad_norm": 10.0}
    return Config.preset("masked-cartpole").replace(train=train)


def parts(cfg, solved_at=None):
    evaluations = []

    def evaluate():
        evaluations.append(1)
        return Evaluation((1.0, 3.0), (1, 3)), len(evaluations) == solved_at

    batch = SimpleNamespace(to=lambda device: None)
    return CountingLearner(cfg), repeat(None), SimpleNamespace(sample=lambda: batch), evaluate


def test_with_a_ladder_the_metrics_have_its_mean(cfg):
    """Horgan et al. 2018: environment i of N has 0.4 to the power of 1 + 7 i / (N - 1)."""
    cfg = cfg.replace(env={"num_envs": 4}, scale={"ladder": True})
    progress = Progress()
    list(loop(*parts(cfg), progress))
    mean = sum(0.4 ** (1 + 7 * i / 3) for i in range(4)) / 4
    assert [row["eps"] for row in progress.metrics] == [round(mean, 4)] * 3


@pytest.mark.parametrize("eps", [1.0, 0.3, [0.4, 0.0162, 0.0007]])
def test_epsilon_falls_as_in_single_steps(eps):
    """TorchRL's own, in float64, down to the end, where it stays; also with a share for each environment."""
    single, ours = (EGreedyModule(None, 1.0, 0.05, annealing_num_steps=300) for _ in range(2))
    for exploration in (single, ours):
        exploration.eps = torch.tensor(eps)
    single.double()
    for _ in range(6):
        single.step(64)
        lower_epsilon(ours, 64)
        torch.testing.assert_close(ours.eps.double(), single.eps, rtol=0, atol=1e-6)
    assert (ours.eps == torch.tensor(0.05)).all()


def test_order_of_events(cfg):
    learner, *others = parts(cfg)
    progress = Progress()
    events = list(loop(learner, *others, progress))
    updates = ["update"] * 3
    assert events == [
        *["collection", "collection", *updates, "evaluation"],
        *["collection", *updates, "collection", *updates, "evaluation"],
        *["collection", *updates, "evaluation"],
    ]
    assert progress.frames == 5 * 64
    assert learner.policy[-1].eps == pytest.approx(0.5)  # 5 * 64 of 640 steps from 1 to 0
    assert learner.annealed == [128, 192, 256, 320]
    assert [row["frames"] for row in progress.metrics] == [128, 256, 320]
    assert [row["loss"] for row in progress.metrics] == [2.0, 6.5, 11.0]  # means since the row before
    assert [row["clipped"] for row in progress.metrics] == pytest.approx([2 / 3, 1 / 2, 1 / 3])
    assert progress.finished(cfg.train) and not progress.solved


def test_a_solved_run_ends(cfg):
    learner, *others = parts(cfg, solved_at=1)
    progress = Progress()
    assert list(loop(learner, *others, progress))[-1] == "evaluation"
    assert progress.solved and progress.frames == 128
    assert list(loop(learner, *others, progress)) == []


@pytest.mark.parametrize("stop", range(20))
def test_a_loop_continues_from_saved_progress(cfg, stop):
    """Stopped after any event, and continued with the saved counters: the same events, in the same order."""
    whole = list(loop(*parts(cfg), Progress()))
    assert len(whole) == 20
    both, progress = parts(cfg), Progress()
    first = list(islice(loop(*both, progress), stop))
    saved = Progress()
    saved.load_state_dict(progress.state_dict())
    assert first + list(loop(*both, saved)) == whole
    assert both[0].updates == 12


def test_the_step_counter_orders_checkpoints(cfg):
    progress, steps = Progress(), [0]
    for _ in loop(*parts(cfg), progress):
        steps.append(progress.step)
    assert steps == sorted(set(steps))


def test_progress_survives_a_round_trip(cfg):
    progress = Progress()
    list(loop(*parts(cfg), progress))
    again = Progress()
    again.load_state_dict(progress.state_dict())
    assert dataclasses.asdict(again) == dataclasses.asdict(progress)
