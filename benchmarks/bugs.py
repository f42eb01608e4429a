"""What each silent bug costs: train with one bug planted, and all other parts right.

``python -m benchmarks.bugs [TASK ...] [BUG ...]`` records ``results/bugs/TASK/BUG/seed-SEED`` for masked
CartPole and the corridor of 10 steps, for all bugs if none is named, one seed of all before the next.
Finished runs stay. A run that was stopped begins again. The right runs are those of the presets.

Agents are evaluated without the bug, except where the bug is in the evaluation. Runs end after ``FRAMES`` at
the latest, which is more than the slowest right run needs; their schedules are the preset's.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from tensordict import NestedKey
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import RandomSampler
from torchrl.envs import ExcludeTransform, TransformedEnv, UnaryTransform
from torchrl.objectives import DQNLoss

from benchmarks import planted
from benchmarks.grids import choose, command
from benchmarks.memory import WIPED, wiped_returns
from recdqn import Config, evaluate
from recdqn.book.live import FILES
from recdqn.book.recorded import RESULTS
from recdqn.collect import make_collector
from recdqn.envs import add_primers, make_env
from recdqn.envs.replayable import seed_globals
from recdqn.evaluation import Evaluation
from recdqn.learner import Learner
from recdqn.loop import Progress, loop
from recdqn.loss import make_loss
from recdqn.replay import (
    TRAJECTORY,
    UNUSED,
    FlatMemmapStorage,
    SliceReplayBuffer,
    StepUniformSliceSampler,
    make_replay_buffer,
)
from recdqn.run.folder import METRICS, WEIGHTS, Run, create_folder, save_checkpoint

TASKS = ("masked-cartpole", "corridor-10")
FRAMES = 32_000  # most environment steps of a run; the slowest right run of masked CartPole needs 25,600
HIDDEN = ("recurrent_state_h", "recurrent_state_c")
LIVE = [run for run, _ in FILES["bugs"].values()]  # agents that run in the book's pages keep their weights
UNFINISHED = ".unfinished"  # suffix of a run's folder while it trains


@dataclass(frozen=True)
class Bug:
    """What a bug puts in the place of right parts.

    Attributes:
        found: what ``diagnose`` finds; nothing where the parts themselves are right.
        settings: other settings.
        env: completes the environment in which the policy collects.
        loss: builds the loss.
        learner: changes the learner.
        buffer: builds the replay buffer, from the configuration and a folder.
        acts: makes the policy that collects.
        judged: makes the policy that is evaluated.
        evaluated: what happens after an evaluation, with the collector's environment and the policy.
        seeds: number of recorded seeds.
    """

    found: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    env: Callable[[TransformedEnv, TensorDictSequential], TransformedEnv] = add_primers
    loss: Callable[..., DQNLoss] = make_loss
    learner: Callable[[Learner], None] = lambda learner: None
    buffer: Callable[[Config, str], Any] = make_replay_buffer
    acts: Callable[[TensorDictSequential], TensorDictModuleBase] = lambda policy: policy
    judged: Callable[[TensorDictSequential], TensorDictSequential] = lambda policy: policy
    evaluated: Callable[[TransformedEnv, TensorDictModuleBase], None] = lambda env, policy: None
    seeds: int = 5


def wrong_primer(env: TransformedEnv, policy: TensorDictSequential) -> TransformedEnv:
    """Append a primer that begins with ones."""
    add_primers(env, policy)
    primer = env.transform[-1]
    for key in HIDDEN:
        primer.default_value[key] = 1.0
    return env


def then(*transforms: Callable[[], Any]) -> Callable[[TransformedEnv, TensorDictSequential], TransformedEnv]:
    """Return what appends transforms after the primer."""

    def complete(env: TransformedEnv, policy: TensorDictSequential) -> TransformedEnv:
        add_primers(env, policy)
        for make in transforms:
            env.append_transform(make())
        return env

    return complete


def stock_loss(settings: Any, policy: TensorDictSequential, env: Any) -> DQNLoss:
    """Return TorchRL's loss, double and with the preset's discount."""
    loss = DQNLoss(policy[:-1], action_space=env.action_spec_unbatched, double_dqn=True, delay_value=True)
    loss.make_value_estimator(gamma=settings.gamma)
    return loss


def step_by_step(settings: Any, policy: TensorDictSequential, env: Any) -> DQNLoss:
    """Return a loss that does not read slices."""
    return planted.StepByStep(policy[:-1], action_space=env.action_spec_unbatched, gamma=settings.gamma)


def reads_done(settings: Any, policy: TensorDictSequential, env: Any) -> DQNLoss:
    """Return the right loss, which reads "done" for "terminated"."""
    loss = make_loss(settings, policy, env)
    loss.set_keys(terminated="done")
    return loss


def with_transform(make: Callable[[], Any], cfg: Config, scratch: str) -> SliceReplayBuffer:
    """Build the right buffer, and append a transform."""
    buffer = make_replay_buffer(cfg, scratch)
    buffer.append_transform(make())
    return buffer


def right_sampler(cfg: Config, trajectory: NestedKey = TRAJECTORY) -> StepUniformSliceSampler:
    """Build the preset's sampler, which tells episodes apart by an entry."""
    return StepUniformSliceSampler(
        slice_len=cfg.replay.slice_len, traj_key=trajectory, whole=cfg.replay.whole
    )


def other_buffer(
    cfg: Config, scratch: str, kind: Any = SliceReplayBuffer, ndim: int = 2, **options: Any
) -> SliceReplayBuffer:
    """Build the right buffer, except for its class, its sampler or the dimensions of its storage."""
    return kind(
        transform=ExcludeTransform(*UNUSED, inverse=True),
        storage=FlatMemmapStorage(cfg.replay.capacity, ndim=ndim, scratch_dir=scratch),
        batch_size=cfg.replay.slices * cfg.replay.slice_len,
        dim_extend=ndim - 1,
        **{"sampler": right_sampler(cfg)} | options,
    )


def end_to_end(cfg: Config, scratch: str) -> SliceReplayBuffer:
    """Build a buffer that takes every done step, and nothing else, for the end of an episode."""
    return other_buffer(cfg, scratch, planted.EndToEnd, sampler=right_sampler(cfg, "ended"), ndim=1)


def windows(cfg: Config, scratch: str) -> SliceReplayBuffer:
    """Build a buffer whose slices cross ends of episodes and the write cursor."""
    return other_buffer(cfg, scratch, sampler=planted.Windows(cfg.replay.slice_len))


def borrow(env: TransformedEnv, policy: TensorDictModuleBase, steps: int = 5) -> None:
    """Play in the collector's environment, not to the end of an episode: Gymnasium would notice that."""
    with torch.no_grad():
        env.rollout(steps, policy)


STORED = [(key, ("next", key)) for key in HIDDEN]
PLANTED: dict[str, Bug] = {
    "no-primer": Bug(
        ("no-primer", "state-lost"),
        {"loss": {"stored_state": False}},  # no state is stored
        env=lambda env, policy: env,
        seeds=10,
    ),
    "target-leak": Bug(("target-leak",), loss=stock_loss, seeds=10),
    "one-step": Bug((), {"loss": {"n_steps": 1}}, seeds=10),  # no bug: the right side of target-leak
    "state-lost": Bug(
        ("state-lost",), buffer=partial(with_transform, lambda: planted.changed(torch.zeros_like, *HIDDEN))
    ),
    "recurrent-mode-off": Bug(("recurrent-mode-off",), loss=step_by_step),
    "slice-over-episodes": Bug(("slice-over-episodes",), buffer=end_to_end),
    "target-frozen": Bug(("target-frozen",), {"loss": {"tau": 0.0}}),
    "target-is-online": Bug(
        ("target-is-online",), learner=lambda learner: planted.share_target(learner.loss)
    ),
    "exploration-frozen": Bug(("exploration-frozen",), {"policy": {"eps_end": 1.0}}),
    "explores-in-evaluation": Bug(("explores-in-evaluation",), judged=planted.always_exploring),
    "state-overwritten": Bug(
        ("state-not-carried",),
        buffer=partial(with_transform, lambda: planted.StoreEntries(*STORED)),
    ),
    "reward-late": Bug((), env=then(planted.LateReward)),
    "terminated-is-done": Bug(("bootstrap-stops",), loss=reads_done),
    "truncation-is-termination": Bug(
        (),
        buffer=partial(
            with_transform, lambda: planted.StoreEntries((("next", "terminated"), ("next", "done")))
        ),
    ),
    "init-never-true": Bug(
        ("init-never-true",), env=then(lambda: planted.changed(torch.zeros_like, "is_init"))
    ),
    "init-false-start": Bug(
        ("init-false-start",),
        env=then(lambda: UnaryTransform(["step_count"], ["is_init"], fn=lambda count: count <= 1)),
    ),
    "impossible-steps": Bug(("impossible-steps",), evaluated=borrow),
    "state-over-episode": Bug(("state-over-episode",), env=then(lambda: planted.Keep(in_keys=list(HIDDEN)))),
    "primer-mismatch": Bug(("primer-mismatch",), env=wrong_primer),
    "recurrent-mode-on": Bug(("recurrent-mode-on",), acts=lambda policy: planted.RecurrentMode(policy)),
    "is-init-lost": Bug(("is-init-lost",), buffer=partial(other_buffer, kind=planted.Unmarked)),
    "slice-over-cursor": Bug(("slice-over-cursor",), buffer=windows),
    "unrelated-transitions": Bug(
        ("unrelated-transitions",),
        buffer=lambda cfg, scratch: other_buffer(cfg, scratch, sampler=RandomSampler()),
    ),
}


@dataclass
class Parts:
    """The parts of a training run."""

    cfg: Config
    env: TransformedEnv
    learner: Learner
    policy: TensorDictModuleBase
    buffer: SliceReplayBuffer
    collector: Collector


@contextlib.contextmanager
def planted_parts(bug: Bug, cfg: Config) -> Iterator[Parts]:
    """Build the parts of a run as :func:`recdqn.train` does, with the bug in them."""
    seed_globals(cfg.seed)
    env = make_env(cfg.env)
    env.set_seed(cfg.seed)
    learner = Learner(cfg, env, bug.loss)
    bug.learner(learner)
    policy = bug.acts(learner.policy)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*missing transforms required.*", FutureWarning)
        env = bug.env(env, learner.policy)
        buffer = bug.buffer(cfg, scratch)
        collector = make_collector(cfg, env, policy, buffer)
        yield Parts(cfg, env, learner, policy, buffer, collector)
        collector.shutdown()


def train_with(bug: Bug, cfg: Config, out: Path | None = None, frames: int = FRAMES) -> Run:
    """Train with a bug until solved, or for ``frames`` environment steps, and save the run into ``out``."""
    at = Progress()
    with planted_parts(bug, cfg) as parts:
        run = Run(cfg, parts.learner.average.module, at.metrics)

        def play() -> tuple[Evaluation, bool]:
            judged, train = bug.judged(run.policy), cfg.train
            number = at.frames // train.frames_per_batch
            result = evaluate(judged, cfg.env, train.eval_episodes, seed=number)
            if result.mean >= train.solved_return:
                sure = evaluate(judged, cfg.env, train.solved_episodes, seed=train.total_frames)
                run.final = sure if sure.mean >= train.solved_return else None
            return result, run.final is not None

        for event in loop(parts.learner, parts.collector, parts.buffer, play, at):
            if event == "evaluation":
                at.metrics[-1].pop("seconds")  # not measured
                bug.evaluated(parts.env, parts.policy)
                if out is not None:
                    save_checkpoint(out, run)
                if at.frames >= frames:
                    break
    return run


def record(name: str, task: str, seed: int, folder: Path = RESULTS) -> None:
    """Record a run that is not finished yet."""
    out = folder / "bugs" / task / name / f"seed-{seed}"
    if (out / METRICS).is_file():
        return
    print(out.relative_to(folder), flush=True)
    half = out.with_name(out.name + UNFINISHED)
    shutil.rmtree(half, ignore_errors=True)
    bug = PLANTED[name]
    cfg = Config.preset(task, seed=seed).replace(**bug.settings)
    create_folder(half, cfg)
    run = train_with(bug, cfg, half)
    if name == "no-primer":  # also evaluate the agent without a primer: its state is zero at every step
        (half / WIPED).write_text(json.dumps(wiped_returns(run)))
    if out.relative_to(folder).as_posix() not in LIVE:
        (half / WEIGHTS).unlink()
    half.rename(out)


def main(names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()) -> None:
    """Record the runs of some tasks and bugs, or of all.

    Args:
        names: of tasks, of bugs or of both.
    """
    chosen = choose(names, (*TASKS, *PLANTED))
    tasks = [task for task in TASKS if task in chosen] or TASKS
    names = [name for name in PLANTED if name in chosen] or tuple(PLANTED)
    torch.set_num_threads(1)
    for seed in range(10):
        for name in names:
            for task in tasks:
                if seed < PLANTED[name].seeds:
                    record(name, task, seed)


if __name__ == "__main__":
    command(main)
