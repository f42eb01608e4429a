"""Train and resume: drive the loop, save, stop, log."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import gymnasium as gym
import torch
from torchrl.checkpoint import GlobalRNGState
from tqdm import tqdm

from recdqn.collect import CollectorState, make_collector
from recdqn.config import Config
from recdqn.envs import add_primers, make_env
from recdqn.envs.replayable import get_statistics, seed_globals
from recdqn.errors import ConfigError, NotFinite, UserError, first_line
from recdqn.evaluation import Evaluation, decimals, evaluate
from recdqn.learner import Learner
from recdqn.loop import Progress, loop
from recdqn.replay import make_replay_buffer, preallocate, stored_bytes
from recdqn.run.folder import (
    NOT_FINITE,
    SCRATCH,
    Run,
    check_device,
    check_room,
    create_folder,
    load_config,
    mean_return,
    remove_leftovers,
    removed_if_empty,
    save_checkpoint,
    write_config,
)
from recdqn.run.lock import lock
from recdqn.run.loggers import Log, LoggerName, check_logger
from recdqn.run.signals import GracefulStop, Interrupted, Stopped
from recdqn.run.state import Checkpoints

if TYPE_CHECKING:
    from recdqn.scale import Fleet


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # of a disk, a quota, or a file


def train(
    cfg: Config, out: str | Path | None = None, logger: LoggerName | None = None, progress: bool = True
) -> Run:
    """Train until solved or until the frames are used up.

    With ``out``, the whole state is saved every ``cfg.train.save_seconds`` and at the end, and
    :func:`resume` goes on from there. Ctrl-C and SIGTERM then finish the update, save and stop.

    Args:
        cfg: the configuration.
        out: a folder for configuration, manifest, metrics, weights and checkpoints; ``None`` writes nothing.
        logger: also write the metrics with this logger of TorchRL's, into ``out``.
        progress: whether to draw a progress bar, with frames per second and time left.

    Returns:
        The trained policy and its metrics. On one CPU thread, two runs with the same configuration give the
        same numbers, stopped and resumed or not.

    Raises:
        NotFinite: if a loss, a gradient, an observation or a reward is not finite.
        Stopped: a ``KeyboardInterrupt``, if a signal requested a stop.
        UserError: if ``out`` already holds something or cannot be written, the disk is too small, the device
            does not exist, or the logger's package is not installed.
    """
    _check(cfg, out, logger)
    # absolute, because an environment may change the working directory
    return _train(cfg, None if out is None else Path(out).absolute(), logger, progress)


def resume(
    out: str | Path,
    frames: int | None = None,
    logger: LoggerName | None = None,
    progress: bool = True,
    address: str | None = None,
) -> Run:
    """Go on with a run that was stopped or killed, from its newest usable checkpoint, or else from the start.

    Parameters, target network, optimiser, exploration, replay buffer, collector, episodes, random numbers,
    metrics and counters are restored, so on one CPU thread the run ends as if it had never stopped; only
    ``"seconds"`` differ.

    Args:
        out: the run folder.
        frames: environment steps in total, to train longer than originally configured.
        logger: as for :func:`train`.
        progress: as for :func:`train`.
        address: another Ray cluster than that of ``scale.address``, for a run with actors.

    Raises:
        UserError: also if there is no run, or nothing left to do.
    """
    cfg, out = load_config(out), Path(out).absolute()
    if frames is not None:
        cfg = cfg.replace(train={"total_frames": frames})
    if address is not None:
        cfg = cfg.replace(scale={"address": address})
    _check(cfg, out, logger)
    return _train(cfg, out, logger, progress, resumed=True)


def _train(cfg: Config, out: Path | None, logger: LoggerName | None, bar: bool, resumed: bool = False) -> Run:
    with contextlib.ExitStack() as stack:
        stop = GracefulStop()
        if out is not None:
            stack.enter_context(stop)
        stack.enter_context(_reproducible(cfg))
        alone = cfg.scale.actors == 0
        env = make_env(cfg.env if alone else dataclasses.replace(cfg.env, num_envs=1, workers=False))
        opened = stack.enter_context(contextlib.ExitStack())
        opened.callback(env.close)  # TorchRL 0.14.1's collector takes a single environment for closed
        if not alone and (learns := get_statistics(env.base_env.gym)):
            raise UserError(
                f"{cfg.env.id} has a wrapper that learns statistics ({', '.join(learns)}): expected "
                f"scale.actors=0, because actors cannot share them, and found {cfg.scale.actors}"
            )
        env.set_seed(cfg.seed)
        learner = Learner(cfg, env)
        add_primers(env, learner.policy)
        at = Progress()
        stack.enter_context(_explained(out, learner, at))
        fleet = None if alone else stack.enter_context(_fleet(cfg, learner))
        scratch = stack.enter_context(_scratch_folder(cfg, out, stored_bytes(cfg, env), resumed))
        log = None
        if out is not None and logger is not None:
            log = Log(out, logger, cfg, _say)
            stack.callback(log.close)
        buffer = make_replay_buffer(cfg, scratch)
        if fleet is None:
            collector = make_collector(cfg, env, learner.policy, buffer)
            collector.total_frames = math.inf  # the last frame would close the envs before they are saved
            stack.callback(collector.shutdown)
        else:
            opened.close()  # the learner needed its specs only
            collector = fleet.collect_into(buffer)

        checkpoints = None
        collection = fleet or CollectorState(collector, env, cfg.env.replay_seconds)
        if out is not None:
            parts = {"collection": collection, "random": GlobalRNGState(), "progress": at, "buffer": buffer}
            checkpoints = Checkpoints(out, cfg, **learner.parts(), **parts)
            checkpoints.prune()
            if resumed:
                _load(checkpoints, collection, at)
        run = Run(cfg, learner.average.module, at.metrics)
        if log is not None:
            for row in at.metrics:
                log.add(row)
        shown = stack.enter_context(_progress_bar(cfg, at, bar))
        saved = time.perf_counter()
        started = saved - at.seconds

        def play() -> tuple[Evaluation, bool]:
            with stop.immediate():
                if fleet is None:
                    run.statistics = get_statistics(env.base_env.gym)
                number = at.frames // cfg.train.frames_per_batch
                try:
                    result, run.final = _evaluate(run, number)
                except ConfigError:  # no other environment can be made beside the one that trains
                    if cfg.env.num_envs > 1 or not isinstance(collection, CollectorState):
                        raise
                    with _paused(collection):
                        result, run.final = _evaluate(run, number, within=env.base_env.gym)
            at.seconds = time.perf_counter() - started
            return result, run.final is not None

        with contextlib.suppress(Interrupted):  # in an evaluation, which is repeated after a resume
            for event in loop(learner, collector, buffer, play, at):
                if event == "collection":
                    preallocate(scratch)  # the storage makes its files at the first write
                    shown.update(cfg.train.frames_per_batch)
                elif event == "evaluation":
                    row = at.metrics[-1]
                    mean = mean_return(row)
                    shown.set_postfix(
                        {"return": f"{mean:.{decimals([mean])}f}", "loss": f"{row['loss']:.2g}"}
                    )
                    if log is not None:
                        log.add(row)
                    if out is not None:
                        save_checkpoint(out, run)
                if stop.signal is not None:
                    break
                now = time.perf_counter()
                between_collections = event != "evaluation" and not at.updates_due
                if checkpoints is not None and between_collections and now - saved >= cfg.train.save_seconds:
                    saved, at.seconds = now, now - started
                    checkpoints.save(at.step)

        if checkpoints is not None:
            stop.cancel_deadline()
            at.seconds = time.perf_counter() - started
            checkpoints.save(at.step)
        if stop.signal is not None and not at.finished(cfg.train):
            raise Stopped(stop.signal, f"stopped after {at.frames} frames")
    return run


def _fleet(cfg: Config, learner: Learner) -> Fleet:
    from recdqn.scale import Fleet  # imports Ray

    return Fleet(cfg, learner.policy, _say)


@contextlib.contextmanager
def _scratch_folder(cfg: Config, out: Path | None, buffer_bytes: int, resumed: bool) -> Iterator[str]:
    """Prepare and lock the run folder, and make a temporary folder in it for the replay buffer."""
    with contextlib.ExitStack() as stack:
        if out is None:
            check_room(Path(tempfile.gettempdir()), buffer_bytes, copies=1)
        else:
            check_room(out, buffer_bytes)
            made = [] if resumed else create_folder(out, cfg)
            stack.enter_context(lock(out, _say))
            if not resumed:
                stack.enter_context(removed_if_empty(out, made))
            remove_leftovers(out)
        prefix = "recdqn-" if out is None else SCRATCH
        yield stack.enter_context(
            tempfile.TemporaryDirectory(prefix=prefix, dir=out, ignore_cleanup_errors=True)
        )


def _progress_bar(cfg: Config, at: Progress, visible: bool) -> tqdm:
    return tqdm(
        total=cfg.train.collections * cfg.train.frames_per_batch,
        initial=at.frames,
        unit="frame",
        disable=not visible,
        dynamic_ncols=True,
        mininterval=0.5,  # seconds
    )


@contextlib.contextmanager
def _paused(collection: CollectorState) -> Iterator[None]:
    """Lend the environment that trains, and then go on with its episode, or with a new one."""
    before = collection.state_dict()
    try:
        yield
    finally:
        collection.load_state_dict(before)
        collection.replay()


def _evaluate(run: Run, number: int, within: gym.Env | None = None) -> tuple[Evaluation, Evaluation | None]:
    """Play greedy episodes, and more of them to confirm a mean return that is high enough."""
    cfg = run.cfg.train
    play = partial(evaluate, run.policy, run.cfg.env, statistics=run.statistics, within=within)
    result = play(episodes=cfg.eval_episodes, seed=number)
    if result.mean < cfg.solved_return:
        return result, None
    confirmed = play(episodes=cfg.solved_episodes, seed=cfg.total_frames)
    return result, confirmed if confirmed.mean >= cfg.solved_return else None


def _load(checkpoints: Checkpoints, collection: CollectorState | Fleet, at: Progress) -> None:
    """Load the newest usable checkpoint, and report what could not be restored."""
    folder, cfg = checkpoints.folder, checkpoints.cfg
    found = checkpoints.load(_say)
    if found and at.finished(cfg.train):
        solved = "solved" if at.solved else "not solved; --frames N with a larger N trains on"
        raise UserError(
            f"{folder} is finished after {at.frames} frames ({solved}): there is nothing to go on with"
        )
    write_config(folder, cfg)  # with the new number of frames
    if not found:
        _say(f"{folder} has no checkpoint that can be used: the run begins again")
    elif (problem := collection.replay()) is not None:
        _say(f"{problem}: new episodes begin")


@contextlib.contextmanager
def _explained(out: Path | None, learner: Learner, at: Progress) -> Iterator[None]:
    """End a failed run with one line; save what reproduces a value that is not finite."""
    try:
        yield
    except NotFinite as error:
        message = f"{error}, after {at.frames} frames and {at.updates} updates"
        if out is not None:
            batch = error.batch.detach().cpu().flatten_keys(".").to_dict()
            with contextlib.suppress(OSError, RuntimeError):  # PyTorch reports a full disk by the second
                torch.save({"batch": batch, "loss": dict(learner.loss.state_dict())}, out / NOT_FINITE)
                message += f"; batch and weights are in {out / NOT_FINITE}"
        raise NotFinite(message, error.batch) from None
    except Stopped as stopped:
        stopped.args = (f"{stopped}; resume with 'recdqn resume {out}'",)
        raise
    except OSError as error:
        if out is None:
            raise
        cure = "make room" if error.errno in FULL else "correct that"
        raise UserError(
            f"cannot write into {out} ({error.strerror or first_line(error)}): {cure}, then resume from the "
            f"last checkpoint with 'recdqn resume {out}'"
        ) from error


@contextlib.contextmanager
def _reproducible(cfg: Config) -> Iterator[None]:
    """Seed the global random generators and set PyTorch's threads; restore both at the end."""
    generators, threads = GlobalRNGState(), torch.get_num_threads()
    before = generators.state_dict()
    seed_globals(cfg.seed)
    torch.set_num_threads(cfg.threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        generators.load_state_dict(before)


def _check(cfg: Config, out: str | Path | None, logger: LoggerName | None) -> None:
    """Refuse what cannot work before anything is made."""
    if not isinstance(cfg, Config):
        raise UserError(f"cfg={cfg!r}: expected a Config, such as Config.preset('masked-cartpole')")
    cfg.check_training()
    check_device(cfg.device)
    if logger is not None:
        check_logger(logger, out)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
