"""Get the parts to look at: from a function of the reader's, or from a saved run (the field guide)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from torchrl.objectives import SoftUpdate

from recdqn.collect import make_collector
from recdqn.envs import make_env
from recdqn.errors import UserError
from recdqn.loss import make_loss
from recdqn.policy import make_policy
from recdqn.replay import make_replay_buffer
from recdqn.run.folder import load_checkpoint

PARTS = ("env", "policy", "buffer", "batch", "loss")
COLLECTIONS = 8  # that a saved policy plays to fill a buffer


def parts_of(target: str) -> dict[str, Any]:
    """Return the parts that ``target`` names: the folder of a run, or ``"module:function"``.

    Raises:
        UserError: if it names neither, or the function does not return a dictionary of parts.
    """
    if Path(target).is_dir():
        return parts_of_run(target)
    module_name, colon, function_name = target.partition(":")
    if not colon:
        raise UserError(f"{target!r} is neither the folder of a run nor MODULE:FUNCTION")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks something itself
        raise UserError(f"there is no module {module_name!r} here: name a file without its .py") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(f"{module_name!r} has no function {function_name!r}")
    parts = function()
    if not isinstance(parts, dict):
        raise UserError(
            f"{target} returned a {type(parts).__name__}: expected a dictionary of {_list(PARTS)}"
        )
    if unknown := [name for name in parts if name not in PARTS]:
        raise UserError(f"{target} returned {_list(unknown)}: expected some of {_list(PARTS)}")
    return parts


def parts_of_run(path: str | Path) -> dict[str, Any]:
    """Build a saved run's pipeline again, with its weights, and let its policy fill a small buffer.

    Raises:
        UserError: if ``path`` is not the folder of a run, or its files cannot be read.
    """
    run = load_checkpoint(path)
    frames = COLLECTIONS * run.cfg.train.frames_per_batch
    cfg = run.cfg.replace(device="cpu", replay={"capacity": frames}, train={"total_frames": frames})
    env = make_env(cfg.env)
    env.set_seed(cfg.seed)
    policy = make_policy(cfg.policy, env)
    policy.load_state_dict(run.policy.state_dict())
    buffer = make_replay_buffer(cfg)
    collector = make_collector(cfg, env, policy, buffer)
    for _ in collector:
        pass
    collector.shutdown(close_env=False)
    loss = make_loss(cfg.loss, policy, env)
    SoftUpdate(loss, tau=cfg.loss.tau)
    return {"env": env, "policy": policy, "buffer": buffer, "loss": loss}


def _list(names: Any) -> str:
    return ", ".join(map(repr, names))
