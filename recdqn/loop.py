"""The training loop: collect, update, evaluate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torchrl.collectors import Collector
from torchrl.data import TensorDictReplayBuffer
from torchrl.modules import EGreedyModule

from recdqn.config import TrainConfig
from recdqn.evaluation import Evaluation
from recdqn.learner import Learner
from recdqn.policy import ladder

Event = Literal["collection", "update", "evaluation"]


def loop(
    learner: Learner,
    collector: Collector,
    buffer: TensorDictReplayBuffer,
    evaluate: Callable[[], tuple[Evaluation, bool]],
    progress: Progress,
) -> Iterator[Event]:
    """Train until solved or until all frames are used.

    The caller drives the loop, and may save or stop after each event. A new loop with the same parts goes on
    from ``progress``.

    Args:
        learner: makes the gradient steps.
        collector: writes into ``buffer``; one collection for each ``next``.
        buffer: returns the batches.
        evaluate: plays greedy episodes; returns them, and whether they solve the task.
        progress: counters, updated in place.

    Yields:
        What just happened.
    """
    cfg = learner.cfg.train
    exploration = learner.policy[-1]
    collections = iter(collector)
    while True:
        while progress.updates_due:
            batch = buffer.sample().to(learner.cfg.device)
            progress.add_update(*learner.update(batch))
            if learner.cfg.replay.priority:
                buffer.update_tensordict_priority(batch)
            yield "update"

        if progress.evaluation_due(cfg):
            result, progress.solved = evaluate()
            progress.add_evaluation(result, cfg.max_grad_norm, _random_share(learner))
            yield "evaluation"
        if progress.finished(cfg):
            return

        next(collections)
        progress.frames += cfg.frames_per_batch
        if not learner.cfg.scale.ladder:
            lower_epsilon(exploration, cfg.frames_per_batch)
        if progress.frames >= cfg.warmup_frames:
            learner.anneal(progress.frames)
            progress.updates_due = cfg.updates
        yield "collection"


def _random_share(learner: Learner) -> float:
    """Return the share of random actions now, over all environments."""
    if not learner.cfg.scale.ladder:
        return learner.policy[-1].eps.item()
    return ladder(learner.cfg.env.num_envs).mean().item()


def lower_epsilon(exploration: EGreedyModule, frames: int) -> None:
    """Lower epsilon as ``exploration.step(frames)`` does, which takes as many steps of Python.

    Args:
        exploration: its ``eps`` falls linearly from ``eps_init`` to ``eps_end`` in ``annealing_num_steps``.
        frames: environment steps since the last call.
    """
    each = (exploration.eps_init - exploration.eps_end) / exploration.annealing_num_steps
    exploration.eps.copy_(torch.maximum(exploration.eps - frames * each, exploration.eps_end))


@dataclass
class Progress:
    """Counters and metrics of a run; saved with each checkpoint.

    Attributes:
        frames: environment steps, over all environments.
        updates: gradient steps.
        updates_due: gradient steps to make before the next collection.
        seconds: total training time, across resumes.
        losses, norms: of the updates since the last evaluation.
        metrics: one row per evaluation, see :class:`recdqn.run.folder.Run`.
        solved: whether the last evaluation was confirmed.
    """

    frames: int = 0
    updates: int = 0
    updates_due: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    solved: bool = False

    @property
    def step(self) -> int:
        """Monotonic step counter, used to order checkpoints."""
        return self.frames + self.updates + len(self.metrics)

    def evaluation_due(self, cfg: TrainConfig) -> bool:
        """Whether to evaluate now: every ``eval_every`` collections and at the end, after updates."""
        collections = self.frames // cfg.frames_per_batch
        return bool(self.losses) and (collections % cfg.eval_every == 0 or collections >= cfg.collections)

    def finished(self, cfg: TrainConfig) -> bool:
        """Whether the run is solved, or has used and evaluated all its frames."""
        return self.solved or (self.frames // cfg.frames_per_batch >= cfg.collections and not self.losses)

    def add_update(self, loss: float, norm: float) -> None:
        """Count a gradient step."""
        self.losses.append(loss)
        self.norms.append(norm)
        self.updates += 1
        self.updates_due -= 1

    def add_evaluation(self, result: Evaluation, max_grad_norm: float, eps: float) -> None:
        """Add a row to the metrics, with the means since the row before."""
        row = {
            "frames": self.frames,
            "updates": self.updates,
            "seconds": round(self.seconds, 1),
            "returns": list(result.returns),
            "loss": sum(self.losses) / len(self.losses),
            "grad_norm": sum(self.norms) / len(self.norms),
            "clipped": sum(norm > max_grad_norm for norm in self.norms) / len(self.norms),
            "eps": round(eps, 4),
        }
        self.metrics.append(row)
        self.losses, self.norms = [], []

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore from :meth:`state_dict`."""
        for name, value in state.items():
            setattr(self, name, value)
