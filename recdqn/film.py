"""Film a greedy episode."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import imageio.v3 as iio
import torch
from tensordict.nn import TensorDictModule
from torchrl.envs.utils import ExplorationType, set_exploration_type

from recdqn.config import EnvConfig
from recdqn.envs import make_env, prepare_display
from recdqn.errors import UserError
from recdqn.evaluation import EVAL_SEED, _add_primers


@torch.no_grad()
def film(policy: TensorDictModule, cfg: EnvConfig, path: str | Path, seed: int = 0) -> int:
    """Film one greedy episode into ``path`` (300 x 200 pixels), and return its length in environment steps.

    Args:
        policy: any policy that acts in ``make_env(cfg)``.
        cfg: the environment it was trained in; masked ones are drawn as well.
        path: the film, a ``.gif`` or ``.mp4`` file; its folder must exist.
        seed: of the episode.

    Raises:
        UserError: if ``path`` ends in something else, its folder does not exist, or the environment fails or
            cannot draw.
    """
    path = Path(path)
    if path.suffix not in (".gif", ".mp4"):
        raise UserError(f"cannot film into {path.name!r}: the name must end in .gif or .mp4")
    if not path.parent.is_dir():
        raise UserError(f"cannot film into {path}: the folder {path.parent} does not exist; make it first")
    prepare_display()
    env = make_env(dataclasses.replace(cfg, num_envs=1, workers=False))
    device = next((p.device for p in policy.parameters()), torch.device("cpu"))
    frames = []
    with contextlib.closing(env), set_exploration_type(ExplorationType.DETERMINISTIC):
        _add_primers(env, policy)
        env.set_seed(EVAL_SEED + seed)
        td, done = env.reset(), False
        while not done:
            frames.append(env.render()[::2, ::2])
            step, td = env.step_and_maybe_reset(policy(td.to(device)).to("cpu"))
            done = bool(step["next", "done"])
    if path.suffix == ".gif":  # browsers draw at most 50 pictures a second, and every second one is enough
        iio.imwrite(path, frames[::2], duration=40, loop=0)
    else:
        iio.imwrite(path, frames, fps=50, macro_block_size=4)
    return len(frames)
