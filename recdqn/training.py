"""The training loop, readable from top to bottom (chapter 5)."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib.util
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictSequential
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchrl.checkpoint import GlobalRNGState
from torchrl.envs import TransformedEnv
from torchrl.objectives import SoftUpdate
from torchrl.record.loggers import Logger as TorchRLLogger
from torchrl.record.loggers import get_logger
from tqdm import tqdm

from recdqn.collect import make_collector
from recdqn.config import Config
from recdqn.envs import make_env
from recdqn.envs.replayable import Collection, seed_globals
from recdqn.errors import NotFinite, UserError
from recdqn.evaluation import Evaluation, evaluate
from recdqn.loss import RecurrentDQNLoss, make_loss
from recdqn.policy import make_policy
from recdqn.replay import claim, make_replay_buffer, stored_bytes
from recdqn.run.signals import Stop, Stopped
from recdqn.run.state import (
    CHECKPOINTS,
    SCRATCH,
    Checkpoints,
    load_config,
    prepare_run,
    save_checkpoint,
    sweep,
    write_config,
)

Logger = Literal["csv", "tensorboard", "wandb"]
BATCH = "not-finite.pt"  # in a run's folder: what to look at when a number stopped being finite
COPIES = 5  # of the replay buffer, at most at one moment: itself, two checkpoints, and a third in two forms


@dataclass
class Run:
    """What :func:`train` returns (chapter 5).

    Attributes:
        cfg: the configuration it trained with.
        policy: the policy, with the running average of its weights.
        metrics: one dictionary per evaluation: ``"frames"`` and ``"updates"`` so far, ``"seconds"`` of
            training, ``"returns"`` (one per greedy episode), the means of ``"loss"`` and ``"grad_norm"``
            since the evaluation before, ``"clipped"``, the share of gradients that were longer than
            ``max_grad_norm``, and ``"eps"``.
        final: the evaluation that confirmed the solution, or ``None`` where training was not solved.
    """

    cfg: Config
    policy: TensorDictSequential
    metrics: list[dict] = field(default_factory=list)
    final: Evaluation | None = None


@dataclass
class Progress:
    """Where a run stands in its loop; saved with each checkpoint.

    Attributes:
        frames: environment steps.
        updates: gradient steps.
        left: gradient steps that are still to be made before the next collection.
        seconds: of training, over all its sittings.
        losses, norms: of the updates since the last evaluation.
        metrics: those of :class:`Run`.
        solved: whether there is nothing left to do.
    """

    frames: int = 0
    updates: int = 0
    left: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    metrics: list[dict] = field(default_factory=list)
    solved: bool = False

    @property
    def step(self) -> int:
        """A number that grows with everything that happens."""
        return self.frames + self.updates + len(self.metrics)

    def finished(self, total: int) -> bool:
        """Whether nothing is left to do in a run of so many environment steps."""
        return self.solved or (self.frames >= total and not self.losses)

    def evaluated(self, result: Evaluation, longest: float, eps: float) -> dict:
        """Add an evaluation to the metrics, and what came since the one before; ``longest`` is unclipped."""
        row = {
            "frames": self.frames,
            "updates": self.updates,
            "seconds": round(self.seconds, 1),
            "returns": list(result.returns),
            "loss": sum(self.losses) / len(self.losses),
            "grad_norm": sum(self.norms) / len(self.norms),
            "clipped": sum(norm > longest for norm in self.norms) / len(self.norms),
            "eps": round(eps, 4),
        }
        self.metrics.append(row)
        self.losses, self.norms = [], []
        return row

    def state_dict(self) -> dict:
        """Return plain values."""
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict) -> None:
        """Take them back."""
        for name, value in state.items():
            setattr(self, name, value)


def train(
    cfg: Config, out: str | Path | None = None, logger: Logger | None = None, progress: bool = True
) -> Run:
    """Train until solved or until the frames are used up.

    With ``out``, the whole state is saved every ``cfg.train.save_seconds`` and at the end, and
    :func:`resume` goes on from there. Ctrl-C and SIGTERM then finish the update, save and stop.

    Args:
        cfg: everything the run needs.
        out: a folder for the configuration, manifest, metrics, weights and checkpoints; ``None`` writes
            nothing.
        logger: which of TorchRL's loggers also gets every metric, in ``out``; it needs ``out``.
        progress: whether to draw a progress bar, with frames per second and time left.

    Returns:
        The trained policy and its metrics. On one CPU thread, two runs with the same configuration give the
        same numbers, stopped and resumed or not.

    Raises:
        NotFinite: if a loss, a gradient, an observation or a reward stops being a finite number.
        Stopped: a ``KeyboardInterrupt``, if a signal asked to stop.
        UserError: if ``out`` already holds something or cannot be written, the disk is too small, the device
            does not exist, or the logger's package is not installed.
    """
    _check(cfg, out, logger)
    return _train(cfg, None if out is None else Path(out), logger, progress)


def resume(
    out: str | Path, frames: int | None = None, logger: Logger | None = None, progress: bool = True
) -> Run:
    """Go on with a run that was stopped, from its newest checkpoint that is whole; without one, begin again.

    Parameters, target network, optimiser, exploration, replay buffer, collector, games, random numbers,
    metrics and counters are as they were, so that on one CPU thread the run ends as if it had never stopped.
    Only ``"seconds"`` differs. Where an environment's state cannot be known (see
    :class:`recdqn.envs.replayable.Game`), its episodes begin anew, and a line says so.

    Args:
        out: the folder that the run was saved into.
        frames: environment steps in all, if there shall be more than the run was made for.
        logger: as for :func:`train`.
        progress: as for :func:`train`.

    Raises:
        UserError: also if there is no run, or nothing left to do.
    """
    cfg, out = load_config(out), Path(out)
    if frames is not None:
        cfg = cfg.replace(train={"total_frames": frames})
    _check(cfg, out, logger)
    return _train(cfg, out, logger, progress, resumed=True)


def _train(cfg: Config, out: Path | None, logger: str | None, progress: bool, resumed: bool = False) -> Run:
    with contextlib.ExitStack() as stack:
        stop = Stop()
        if out is not None:
            stack.enter_context(stop)
        stack.enter_context(_reproducible(cfg))
        env = make_env(cfg.env)
        env.set_seed(cfg.seed)
        policy = make_policy(cfg.policy, env).to(cfg.device)
        exploration = policy[-1]
        loss_fn = make_loss(cfg.loss, policy, env)
        target = SoftUpdate(loss_fn, tau=cfg.loss.tau)
        average = AveragedModel(policy, multi_avg_fn=get_ema_multi_avg_fn(cfg.train.average))
        optim = torch.optim.Adam(loss_fn.parameters(), lr=cfg.train.learning_rate, fused=True)
        _check_room(cfg, env, out)
        at = Progress()
        stack.enter_context(_explained(out, loss_fn, at))
        if out is not None:
            if not resumed:
                prepare_run(out, cfg)
            stack.enter_context(_alone(out))
        prefix = "recdqn-" if out is None else SCRATCH
        scratch = stack.enter_context(
            tempfile.TemporaryDirectory(prefix=prefix, dir=out, ignore_cleanup_errors=True)
        )
        buffer = make_replay_buffer(cfg, scratch)
        collector = make_collector(cfg, env, policy, buffer)
        collector.total_frames = math.inf  # its last frame would close the games before they are saved
        stack.callback(collector.shutdown)

        checkpoints = None
        if out is not None:
            networks = {"policy": policy, "loss": loss_fn, "average": average, "optim": optim}
            running = {"collection": Collection(collector, env), "random": GlobalRNGState(), "progress": at}
            checkpoints = Checkpoints(out, cfg, **networks, **running, buffer=buffer)
        if resumed:
            _load(checkpoints, cfg, at)
        run = Run(cfg, average.module, at.metrics)
        log = _logger(out, logger, at.metrics)
        bar = stack.enter_context(
            tqdm(
                total=_total(cfg),
                initial=at.frames,
                unit="frame",
                disable=not progress,
                dynamic_ncols=True,
                mininterval=0.5,  # seconds
            )
        )
        saved = time.perf_counter()
        begun, total = saved - at.seconds, _total(cfg)
        collections = iter(collector)

        while stop.signal is None:
            if at.left == 0:
                number = at.frames // cfg.train.frames_per_batch
                if at.losses and (number % cfg.train.eval_every == 0 or at.frames >= total):
                    result = None
                    with stop.at_once():
                        result, run.final = _evaluate(run, number)
                    if result is None:
                        break  # it was stopped; it comes again when the run goes on
                    at.seconds, at.solved = time.perf_counter() - begun, run.final is not None
                    row = at.evaluated(result, cfg.train.max_grad_norm, exploration.eps.item())
                    bar.set_postfix({"return": f"{result.mean:.3g}", "loss": f"{row['loss']:.2g}"})
                    _log(log, row)
                    if out is not None:
                        save_checkpoint(out, run)
                if at.solved or at.frames >= total:
                    break
                next(collections)
                claim(scratch)
                at.frames += cfg.train.frames_per_batch
                bar.update(cfg.train.frames_per_batch)
                exploration.step(cfg.train.frames_per_batch)
                if at.frames >= cfg.train.warmup_frames:
                    _set_learning_rate(optim, cfg, at.frames)
                    at.left = cfg.train.updates

            while at.left and stop.signal is None:
                batch = buffer.sample().to(cfg.device)
                loss = loss_fn(batch)["loss"]
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(loss_fn.parameters(), cfg.train.max_grad_norm)
                at.losses.append(loss.item())
                at.norms.append(norm.item())
                if not math.isfinite(at.losses[-1] + at.norms[-1]):
                    raise NotFinite(_not_finite(loss_fn, batch, at), batch)
                optim.step()
                optim.zero_grad()
                target.step()
                average.update_parameters(policy)
                at.updates += 1
                at.left -= 1

            if checkpoints is not None and time.perf_counter() - saved >= cfg.train.save_seconds:
                saved = time.perf_counter()
                at.seconds = saved - begun
                checkpoints.save(at.step)

        if checkpoints is not None:
            stop.rest()
            at.seconds = time.perf_counter() - begun
            checkpoints.save(at.step)
        if stop.signal is not None and not at.finished(total):
            raise Stopped(stop.signal, f"stopped after {at.frames} frames")
    return run


def _evaluate(run: Run, number: int) -> tuple[Evaluation, Evaluation | None]:
    """Play greedy episodes, and if their mean return is high enough, more of them to confirm it."""
    cfg = run.cfg.train
    result = evaluate(run.policy, run.cfg.env, cfg.eval_episodes, seed=number)
    if result.mean < cfg.solved_return:
        return result, None
    confirmed = evaluate(run.policy, run.cfg.env, cfg.solved_episodes, seed=cfg.total_frames)
    return result, confirmed if confirmed.mean >= cfg.solved_return else None


def _total(cfg: Config) -> int:
    """How many environment steps a run makes that is not solved."""
    return cfg.train.collections * cfg.train.frames_per_batch


def _load(checkpoints: Checkpoints, cfg: Config, at: Progress) -> None:
    """Load the newest checkpoint that is whole, and say what is not as it was."""
    out = checkpoints.folder
    found = checkpoints.load(_say)
    if found and at.finished(_total(cfg)):
        solved = "solved" if at.solved else "not solved; --frames N with a larger N trains on"
        raise UserError(
            f"{out} is finished after {at.frames} frames ({solved}): there is nothing to go on with"
        )
    write_config(out, cfg)  # it may train longer than it should before
    if not found:
        _say(f"{out} has no checkpoint that can be used: the run begins again")
    elif not checkpoints.checkpoint.components["collection"].exact:
        _say("the state of these environments cannot be known: their episodes begin anew")


def _not_finite(loss_fn: RecurrentDQNLoss, batch: TensorDictBase, at: Progress) -> str:
    """Say what is not a finite number, the first in the order in which it is computed."""
    for key, value in batch.exclude("td_error").items(include_nested=True, leaves_only=True):
        if value.is_floating_point() and not value.isfinite().all():
            return f"{key!r} in a batch is not finite"
    if not math.isfinite(at.losses[-1]):
        return f"the loss is {at.losses[-1]}"
    for name, parameter in loss_fn.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"the gradient of {name} is not finite"
    return f"the norm of the gradient is {at.norms[-1]}"


@contextlib.contextmanager
def _explained(out: Path | None, loss_fn: RecurrentDQNLoss, at: Progress) -> Iterator[None]:
    """End with one line, and keep what reproduces a number that is not finite: batch and weights."""
    try:
        yield
    except NotFinite as error:
        message = f"{error}, after {at.frames} frames and {at.updates} updates"
        if out is not None:
            batch = error.batch.detach().cpu().flatten_keys(".").to_dict()
            with contextlib.suppress(OSError, RuntimeError):  # PyTorch reports a full disk by the second
                torch.save({"batch": batch, "loss": dict(loss_fn.state_dict())}, out / BATCH)
                message += f"; batch and weights are in {out / BATCH}"
        raise NotFinite(message, error.batch) from None
    except Stopped as stopped:
        stopped.args = (f"{stopped}; go on by 'recdqn train --resume {out}'",)
        raise
    except OSError as error:
        if out is None:
            raise
        raise UserError(
            f"cannot write into {out} ({error.strerror}): make room and go on from the last checkpoint by "
            f"'recdqn train --resume {out}'"
        ) from error


def _check_room(cfg: Config, env: TransformedEnv, out: Path | None) -> None:
    """Refuse a replay buffer for which, with its copies in checkpoints, the disk has no room.

    Checkpoints that are there already need no more room: they make place for new ones.
    """
    size = stored_bytes(cfg, env)
    needed = size if out is None else COPIES * size
    place = Path(tempfile.gettempdir()) if out is None else out
    while not place.exists():
        place = place.absolute().parent
    held = sum(path.stat().st_size for path in place.glob(f"{CHECKPOINTS}/checkpoint-*"))
    free = shutil.disk_usage(place).free + held
    if needed > free:
        raise UserError(
            f"{place} has {free / 1e6:.0f} MB free; a replay buffer of {size / 1e6:.0f} MB and its copies "
            f"need {needed / 1e6:.0f} MB: choose another folder, or a smaller replay.capacity"
        )


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Let no other process train in the same folder; and clear away what a killed one has left there."""
    folder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sweep(out)
        yield
    except BlockingIOError:
        raise UserError(f"another process trains in {out}: wait for it, or stop it") from None
    finally:
        os.close(folder)


def _logger(out: Path | None, name: str | None, metrics: list[dict]) -> TorchRLLogger | None:
    """Build a logger of TorchRL's that begins with the metrics there are."""
    if name is None:
        return None
    shutil.rmtree(out / "log", ignore_errors=True)
    log = get_logger(name, logger_name=str(out), experiment_name="log")
    for row in metrics:
        _log(log, row)
    return log


def _log(log: TorchRLLogger | None, row: dict) -> None:
    if log is None:
        return
    for name in ("loss", "grad_norm", "clipped", "eps"):
        log.log_scalar(f"train/{name}", row[name], step=row["frames"])
    log.log_scalar("eval/return", sum(row["returns"]) / len(row["returns"]), step=row["frames"])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _check(cfg: Config, out: str | Path | None, logger: str | None) -> None:
    """Refuse what cannot work before anything is made."""
    cfg.check_training()
    try:
        torch.zeros(1, device=cfg.device).item()  # "meta" makes tensors that hold nothing
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={cfg.device!r} cannot be used here ({reason}): try device='cpu'") from None
    if logger is None:
        return
    if out is None:
        raise UserError(f"logger={logger!r} needs a folder to write into: give out as well")
    if logger != "csv" and importlib.util.find_spec(logger) is None:
        raise UserError(f"logger={logger!r} needs the package {logger}: pip install {logger}")


def _set_learning_rate(optim: torch.optim.Optimizer, cfg: Config, frames: int) -> None:
    done = min(frames / cfg.train.total_frames, 1.0)
    rate = cfg.train.learning_rate + done * (cfg.train.final_learning_rate - cfg.train.learning_rate)
    for group in optim.param_groups:
        group["lr"] = rate


@contextlib.contextmanager
def _reproducible(cfg: Config) -> Iterator[None]:
    """Seed the global random numbers and set PyTorch's threads; put all back afterwards."""
    random_numbers, threads = GlobalRNGState(), torch.get_num_threads()
    before = random_numbers.state_dict()
    seed_globals(cfg.seed)
    torch.set_num_threads(cfg.threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        random_numbers.load_state_dict(before)
