"""Time spent per picture, by part, and alternatives for rendering it: the source of ``benchmarks/NOTES.md``.

python -m benchmarks.profile_pixels prints where the time of a frame goes in the classic env, then
frames per second and pictures of the attempts: processor time of one thread, with alternating calls.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pygame
import torch
from pygame.surfarray import pixels3d
from torch.nn.functional import interpolate
from torchrl.envs import (
    Compose,
    GrayScale,
    GymWrapper,
    InitTracker,
    RewardScaling,
    SerialEnv,
    StepCounter,
    ToTensorImage,
    TransformedEnv,
    UnaryTransform,
)
from torchrl.envs.common import EnvBase

from benchmarks import classic, pictures
from recdqn import Config, make_env
from recdqn.book.measure import median_seconds
from recdqn.config import ENV_ID

SIZE = 84  # pixels
STEPS = 50  # of a rollout
LUMA = np.array([0.2989, 0.587, 0.114], dtype=np.float32)  # TorchRL's GrayScale


def shares(env: EnvBase, steps: int = 150) -> dict[str, float]:
    """Processor milliseconds of a frame of ``env.rollout``, random actions, by part; ``"all"`` is the sum."""
    spent: dict[str, float] = defaultdict(float)
    copied = [0.0]  # when the env began to copy its surface

    def timed(owner: object, name: str, part: str) -> None:
        call = getattr(owner, name)

        def run(*args, **kwargs):
            start = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                spent[part] += time.thread_time() - start

        setattr(owner, name, run)

    game = env.base_env._env.unwrapped
    render = game.render

    def view(surface):
        copied[0] = time.thread_time()
        return pixels3d(surface)

    def draw_and_copy():
        start = time.thread_time()
        picture = render()
        spent["draw"] += copied[0] - start
        spent["copy the surface"] += time.thread_time() - copied[0]
        return picture

    env.rollout(STEPS, break_when_any_done=False)
    game.render = draw_and_copy
    timed(game, "step", "physics")
    for transform in env.transform:
        timed(transform, "_step", type(transform).__name__)
        timed(transform, "_reset", type(transform).__name__)
    pygame.surfarray.pixels3d = view
    try:
        start = time.thread_time()
        env.rollout(steps, break_when_any_done=False)
        whole = time.thread_time() - start
    finally:
        pygame.surfarray.pixels3d = pixels3d
    spent["the rest of TorchRL and Gymnasium"] = whole - sum(spent.values())
    spent["all"] = whole
    return {part: 1_000 * seconds / steps for part, seconds in spent.items()}


class SmallPicture(gym.Wrapper):
    """Returns ``"pixels"``, resized while it is still a pygame surface, before any copy.

    Args:
        env: a pygame environment that ends its ``render()`` with ``pygame.surfarray.pixels3d``.
        shrink: makes ``[84, 84, 3]``, width first, of a surface.
        grey: makes ``[84, 84]`` of the small ``[84, 84, 3]``; ``None`` keeps the colours.
    """

    def __init__(
        self,
        env: gym.Env,
        shrink: Callable[[pygame.Surface], np.ndarray],
        grey: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        super().__init__(env)
        self.shrink, self.grey = shrink, grey
        shape = (SIZE, SIZE, 3) if grey is None else (SIZE, SIZE)
        self.observation_space = gym.spaces.Dict(pixels=gym.spaces.Box(0, 255, shape, np.uint8))

    def picture(self) -> dict[str, np.ndarray]:
        """Render and return ``"pixels"``."""
        pygame.surfarray.pixels3d = self.shrink
        try:
            small = self.env.render()
        finally:
            pygame.surfarray.pixels3d = pixels3d
        return {"pixels": np.ascontiguousarray(small if self.grey is None else self.grey(small))}

    def reset(self, **kwargs):
        """Reset, and return the picture instead of the observation."""
        _, info = self.env.reset(**kwargs)
        return self.picture(), info

    def step(self, action):
        """Step, and return the picture instead of the observation."""
        _, *rest = self.env.step(action)
        return self.picture(), *rest


class SamePicture(SmallPicture):
    """A constant white picture, to time everything except drawing."""

    def picture(self) -> dict[str, np.ndarray]:
        """Return the white picture."""
        return {"pixels": np.full((SIZE, SIZE), 255, dtype=np.uint8)}


def smooth(surface: pygame.Surface) -> np.ndarray:
    """Average over areas."""
    return pixels3d(pygame.transform.smoothscale(surface, (SIZE, SIZE)))


def nearest(surface: pygame.Surface) -> np.ndarray:
    """Keep one pixel of about 34."""
    return pixels3d(pygame.transform.scale(surface, (SIZE, SIZE)))


def halves(surface: pygame.Surface) -> np.ndarray:
    """Keep one pixel of about 8, then average over 4."""
    return smooth(pygame.transform.scale(surface, (2 * SIZE, 2 * SIZE)))


def eight_bit(surface: pygame.Surface) -> np.ndarray:
    """Resize the surface's 32-bit pixels in PyTorch, with the filter of TorchRL's Resize."""
    width, height = surface.get_size()
    rows = np.frombuffer(surface.get_buffer(), np.uint8).reshape(height, width, 4)
    small = interpolate(
        torch.from_numpy(rows).permute(2, 0, 1)[None], (SIZE, SIZE), mode="bilinear", antialias=True
    )
    rgb = [shift // 8 for shift in surface.get_shifts()[:3]]
    return small[0, rgb].permute(2, 1, 0).numpy()


def luma(picture: np.ndarray) -> np.ndarray:
    """Weight the channels as TorchRL does."""
    return (picture @ LUMA + 0.5).astype(np.uint8)


def green(picture: np.ndarray) -> np.ndarray:
    """Use the green channel only."""
    return picture[..., 1]


def count(env: EnvBase, *see) -> TransformedEnv:
    """Append the transforms that every env of the package has."""
    return TransformedEnv(env, Compose(*see, RewardScaling(0.0, 0.01), StepCounter(), InitTracker()))


def channel_first() -> UnaryTransform:
    """Add a channel to a grey picture: ``[1, 84, 84]``, 8-bit."""
    return UnaryTransform(in_keys=["pixels"], out_keys=["pixels"], fn=lambda x: x.unsqueeze(-3))


def small(shrink, grey=None, kind=SmallPicture) -> GymWrapper:
    """Wrap one CartPole."""
    return GymWrapper(kind(gym.make(ENV_ID, render_mode="rgb_array"), shrink, grey))


def vectorised(num_envs: int) -> GymWrapper:
    """Wrap ``num_envs`` CartPoles in one vectorised Gymnasium environment."""
    return GymWrapper(
        gym.make_vec(
            ENV_ID,
            num_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": gym.vector.AutoresetMode.DISABLED},
            wrappers=[lambda env: SmallPicture(env, smooth, luma)],
            render_mode="rgb_array",
        )
    )


def attempts() -> dict[str, Callable[[], EnvBase]]:
    """Environments to compare; the last entry before the batches draws nothing."""
    return {
        "smoothscale, then ToTensorImage and GrayScale": lambda: count(
            small(smooth), ToTensorImage(in_keys=["pixels"]), GrayScale(in_keys=["pixels"])
        ),
        "smoothscale, grey by a product on 84x84": lambda: count(small(smooth, luma), channel_first()),
        "smoothscale, the green channel": lambda: count(small(smooth, green), channel_first()),
        "every 7th pixel (scale), grey by a product": lambda: count(small(nearest, luma), channel_first()),
        "scale to 168x168, smoothscale, grey by a product": lambda: count(
            small(halves, luma), channel_first()
        ),
        "PyTorch's 8-bit resize, grey by a product": lambda: count(small(eight_bit, luma), channel_first()),
        "no picture drawn at all (the ceiling)": lambda: count(
            small(smooth, luma, SamePicture), channel_first()
        ),
        "no picture, no transforms": lambda: small(smooth, luma, SamePicture),
        "8 envs: SerialEnv, smoothscale, grey by a product": lambda: count(
            SerialEnv(8, lambda: small(smooth, luma)), channel_first()
        ),
        "8 envs: one vectorised env, the same": lambda: count(vectorised(8), channel_first()),
    }


def main() -> None:
    """Print both tables."""
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    ours = Config.preset(pictures.PRESET).env
    one = Config.preset(pictures.PRESET).replace(env={"num_envs": 1}).env
    parts = shares(classic.make_env())
    print(f"\n| classic: {parts['all']:.2f} ms a frame | ms | share |\n|---|---|---|")
    for part, ms in sorted(parts.items(), key=lambda item: -item[1]):
        if part != "all":
            print(f"| {part} | {ms:.3f} | {ms / parts['all']:.0%} |")
    makers = {
        "classic": classic.make_env,
        "ours": lambda: make_env(one),
        "16 envs: ours": lambda: make_env(ours),
    }
    makers |= attempts()
    envs = {name: make() for name, make in makers.items()}
    seconds = median_seconds(
        {name: lambda env=env: env.rollout(STEPS, break_when_any_done=False) for name, env in envs.items()},
        repeats=5,
        clock=time.thread_time,
    )
    print("\n| way | frames/s | times the classic | levels from the classic |\n|---|---|---|---|")
    for name, env in envs.items():
        rate = env.batch_size.numel() * STEPS / seconds[name]
        ratio = rate * seconds["classic"] / STEPS
        away = ""
        if name in attempts() and not env.batch_size and "no picture" not in name:
            seen, classics = pictures.same_states(makers[name](), 100)
            scale = 1 if seen.dtype == torch.uint8 else 255
            away = f"{(scale * seen - classics).abs().mean():.2f}"
        env.close()
        print(f"| {name} | {rate:,.0f} | {ratio:.2f} | {away} |")


if __name__ == "__main__":
    main()
