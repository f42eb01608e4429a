"""Film a greedy episode."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from tensordict.nn import TensorDictModule

from recdqn.config import EnvConfig
from recdqn.envs import prepare_display
from recdqn.envs.statistics import Statistics
from recdqn.errors import UserError, first_line
from recdqn.evaluation import evaluation_env, greedy
from recdqn.flow import BEFORE, STEP, walk

FRAME_RATE = 50  # frames a second: that of CartPole's time step


def film(
    policy: TensorDictModule,
    cfg: EnvConfig,
    path: str | Path,
    seed: int = 0,
    statistics: Statistics | None = None,
) -> int:
    """Film one greedy episode into ``path``, at half the size that the environment draws.

    Args:
        policy: any policy that acts in ``make_env(cfg)``.
        cfg: the environment it was trained in; a masked one is drawn as well.
        path: the film, a ``.gif`` or ``.mp4`` file in an existing folder.
        seed: of the episode.
        statistics: as for :func:`recdqn.evaluation.evaluate`.

    Returns:
        The length of the episode, in environment steps.

    Raises:
        UserError: if ``path`` has another suffix, is a folder or in none that exists, or cannot be
            written; or if the environment fails or cannot be drawn.
    """
    path = Path(path).absolute()  # the environment may change the working directory
    if path.suffix not in (".gif", ".mp4"):
        raise UserError(f"cannot film into {path.name!r}: the name must end in .gif or .mp4")
    if not path.parent.is_dir():
        raise UserError(f"cannot film into {path}: the folder {path.parent} does not exist; make it first")
    if os.path.isdir(path):
        raise UserError(f"cannot film into {path}: it is a folder; choose another name")
    prepare_display()
    frames: list[np.ndarray] = []
    with (
        _replacing(path) as part,
        evaluation_env(policy, dataclasses.replace(cfg, num_envs=1, workers=False), seed, statistics) as env,
    ):
        for stage, td in walk(env, greedy(policy)):
            if stage == BEFORE:
                frames.append(_checked(env.render(), frames, str(cfg.id))[::2, ::2])
            elif stage == STEP and td["next", "done"]:
                break
        if path.suffix == ".gif":  # browsers draw at most 50 frames a second; every second one is enough
            content = iio.imwrite(
                "<bytes>", frames[::2], extension=".gif", duration=2_000 / FRAME_RATE, loop=0
            )
        else:
            content = iio.imwrite("<bytes>", frames, extension=".mp4", fps=FRAME_RATE, macro_block_size=4)
        part.write_bytes(content)
    return len(frames)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a file in a folder beside ``path``, which it replaces at the end."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            yield Path(folder) / path.name
            os.replace(Path(folder) / path.name, path)
    except OSError as error:
        reason = error.strerror or first_line(error)  # ffmpeg's has no number
        raise UserError(f"cannot film into {path}: {reason}; choose another place") from None


def _checked(frame: np.ndarray, before: list[np.ndarray], name: str) -> np.ndarray:
    """Refuse a frame that a film cannot hold."""
    same = not before or before[0].shape == frame[::2, ::2].shape
    if frame.dtype != np.uint8 or frame.shape[2] != 3 or not same:
        size = "" if same else ", all of the same size"
        raise UserError(
            f"{name} cannot be filmed: its render gives an array {list(frame.shape)} of {frame.dtype}, "
            f"expected [height, width, 3] of uint8{size}; change its render"
        )
    return frame
