"""The training loop, readable from top to bottom (chapter 5)."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from tensordict.nn import TensorDictSequential
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchrl.objectives import SoftUpdate
from torchrl.record.loggers import get_logger
from tqdm import tqdm

from recdqn.checkpoint import prepare_run, save_checkpoint
from recdqn.config import Config, UserError
from recdqn.envs import make_env
from recdqn.evaluate import Evaluation, evaluate
from recdqn.loss import make_loss
from recdqn.policy import make_policy
from recdqn.replay import make_collector, make_replay_buffer


@dataclass
class Run:
    """What :func:`train` returns (chapter 5).

    Attributes:
        cfg: the configuration it trained with.
        policy: the policy, with the running average of its weights.
        metrics: one dictionary per evaluation: ``"frames"`` and ``"updates"`` so far, ``"seconds"`` since the
            start, ``"returns"`` (one per greedy episode), the means of ``"loss"`` and ``"grad_norm"`` since
            the evaluation before, and ``"eps"``.
        final: the evaluation that confirmed the solution, or ``None`` where training was not solved.
    """

    cfg: Config
    policy: TensorDictSequential
    metrics: list[dict] = field(default_factory=list)
    final: Evaluation | None = None


def train(
    cfg: Config,
    out: str | Path | None = None,
    logger: Literal["csv", "tensorboard", "wandb"] | None = None,
    progress: bool = True,
) -> Run:
    """Train until solved or until the frames are used up.

    Args:
        cfg: everything the run needs.
        out: a folder for the configuration, manifest, metrics and weights; ``None`` writes nothing.
        logger: which of TorchRL's loggers also gets every metric, in ``out``; it needs ``out``.
        progress: whether to draw a progress bar, with frames per second and time left.

    Returns:
        The trained policy and its metrics. On one CPU thread, two runs with the same configuration give the
        same numbers.

    Raises:
        FloatingPointError: if the loss stops being finite.
        UserError: if ``out`` already holds something or cannot be written, the device does not exist, or the
            logger's package is not installed.
    """
    _check(cfg, out, logger)
    if out is not None:
        prepare_run(out, cfg)
    log = get_logger(logger or "", logger_name=str(out), experiment_name="log")
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="recdqn-", ignore_cleanup_errors=True)
        )
        stack.enter_context(_reproducible(cfg))
        env = make_env(cfg.env)
        env.set_seed(cfg.seed)
        policy = make_policy(cfg.policy, env).to(cfg.device)
        exploration = policy[-1]
        loss_fn = make_loss(cfg.loss, policy, env)
        target = SoftUpdate(loss_fn, tau=cfg.loss.tau)
        average = AveragedModel(policy, multi_avg_fn=get_ema_multi_avg_fn(cfg.train.average))
        optim = torch.optim.Adam(loss_fn.parameters(), lr=cfg.train.learning_rate, fused=True)
        buffer = make_replay_buffer(cfg, scratch)
        collector = make_collector(cfg, env, policy, buffer)
        stack.callback(collector.shutdown)

        run, frames, updates, start = Run(cfg, average.module), 0, 0, time.perf_counter()
        losses: list[float] = []
        norms: list[float] = []
        bar = stack.enter_context(
            tqdm(
                total=cfg.train.collections * cfg.train.frames_per_batch,
                unit="frame",
                disable=not progress,
                dynamic_ncols=True,
                mininterval=0.5,  # seconds
            )
        )
        for collection, _ in enumerate(collector, start=1):
            frames += cfg.train.frames_per_batch
            bar.update(cfg.train.frames_per_batch)
            exploration.step(cfg.train.frames_per_batch)
            last = collection == cfg.train.collections

            if frames >= cfg.train.warmup_frames:
                _set_learning_rate(optim, cfg, frames)
                for _ in range(cfg.train.updates):
                    loss = loss_fn(buffer.sample().to(cfg.device))["loss"]
                    loss.backward()
                    norm = torch.nn.utils.clip_grad_norm_(loss_fn.parameters(), cfg.train.max_grad_norm)
                    optim.step()
                    optim.zero_grad()
                    target.step()
                    average.update_parameters(policy)
                    losses.append(loss.item())
                    norms.append(norm.item())
                updates += cfg.train.updates
                if not math.isfinite(losses[-1]):
                    raise FloatingPointError(f"the loss is {losses[-1]} after {frames} frames")

            if losses and (collection % cfg.train.eval_every == 0 or last):
                result = evaluate(run.policy, cfg.env, cfg.train.eval_episodes, seed=collection)
                row = {
                    "frames": frames,
                    "updates": updates,
                    "seconds": round(time.perf_counter() - start, 1),
                    "returns": list(result.returns),
                    "loss": sum(losses) / len(losses),
                    "grad_norm": sum(norms) / len(norms),
                    "eps": round(exploration.eps.item(), 4),
                }
                run.metrics.append(row)
                losses, norms = [], []
                bar.set_postfix({"return": f"{result.mean:.0f}", "loss": f"{row['loss']:.2g}"})
                if log is not None:
                    for name in ("loss", "grad_norm", "eps"):
                        log.log_scalar(f"train/{name}", row[name], step=frames)
                    log.log_scalar("eval/return", result.mean, step=frames)
                if result.mean >= cfg.train.solved_return:
                    confirmed = evaluate(
                        run.policy, cfg.env, cfg.train.solved_episodes, seed=cfg.train.total_frames
                    )
                    if confirmed.mean >= cfg.train.solved_return:
                        run.final = confirmed
                if out is not None:
                    save_checkpoint(out, run)
                if run.final is not None:
                    break
    return run


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
    """Seed PyTorch and set its threads; put both back afterwards."""
    threads = torch.get_num_threads()
    devices = [cfg.device] if cfg.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(cfg.seed)
        torch.set_num_threads(cfg.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
