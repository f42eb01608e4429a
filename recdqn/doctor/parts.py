"""Parts to examine, from a function or from a saved run."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from torchrl.objectives import SoftUpdate

from recdqn.collect import make_collector
from recdqn.doctor import PARTS
from recdqn.envs import add_primers, make_env
from recdqn.errors import UserError, first_line, resolve
from recdqn.loss import make_loss
from recdqn.policy import make_policy
from recdqn.replay import make_replay_buffer
from recdqn.run.folder import load_checkpoint

COLLECTIONS = 8  # to fill the buffer of a saved run


def parts_of(target: str) -> dict[str, Any]:
    """Return the parts that ``target`` names: the folder of a run, or ``"module:function"``.

    Raises:
        UserError: if ``target`` is neither, or the function fails or returns no dictionary of parts.
    """
    if Path(target).is_dir():
        return parts_of_run(target)
    if ":" not in target:
        raise UserError(f"{target!r}: expected the folder of a run or MODULE:FUNCTION")
    function = resolve(target)
    if not callable(function):
        raise UserError(f"{target!r} is a {type(function).__name__}: expected a function")
    try:
        parts = function()
    except UserError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        raise UserError(f"{target} failed with {first_line(error)} ({where})") from error
    if not isinstance(parts, dict):
        raise UserError(
            f"{target} returned a {type(parts).__name__}: expected a dictionary of {_list(PARTS)}"
        )
    if unknown := [name for name in parts if name not in PARTS]:
        raise UserError(f"{target} returned {_list(unknown)}: expected some of {_list(PARTS)}")
    return parts


def parts_of_run(path: str | Path) -> dict[str, Any]:
    """Build the pipeline of a saved run again, with its weights, and fill a small buffer with its policy.

    Raises:
        UserError: if ``path`` is not the folder of a run, or its files cannot be read.
    """
    run = load_checkpoint(path)
    frames = COLLECTIONS * run.cfg.train.frames_per_batch
    cfg = run.cfg.replace(device="cpu", replay={"capacity": frames}, train={"total_frames": frames})
    env = make_env(cfg.env)
    env.set_seed(cfg.seed)
    policy = make_policy(cfg.policy, env)
    add_primers(env, policy)
    policy.load_state_dict(run.policy.state_dict())
    buffer = make_replay_buffer(cfg)
    collector = make_collector(cfg, env, policy, buffer)
    for _ in collector:
        pass
    collector.shutdown(close_env=False)
    loss = make_loss(cfg.loss, policy, env)
    updater = SoftUpdate(loss, tau=cfg.loss.tau)
    return {"env": env, "policy": policy, "buffer": buffer, "loss": loss, "updater": updater}


def _list(names: Any) -> str:
    return ", ".join(map(repr, names))
