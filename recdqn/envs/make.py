"""Make an environment from its settings: CartPole, masked or as pixels, and others."""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from tensordict.nn import TensorDictModule
from torchrl.envs import Compose, TransformedEnv
from torchrl.modules.utils import get_primers_from_module

from recdqn.config import EnvConfig
from recdqn.envs.actions import MOST, OneChoice, sizes
from recdqn.envs.arrays import short
from recdqn.envs.base import GymnasiumEnv, OpenEnv
from recdqn.envs.checked import CheckedEnv, is_vector
from recdqn.envs.entries import MASK, Reader
from recdqn.envs.pixels import RenderedPixels, prepare_display
from recdqn.envs.processes import Workers
from recdqn.envs.replayable import Replayable
from recdqn.errors import ConfigError, MissingAttribute, UserError, first_line, resolve
from recdqn.precision import float32

#: Packages whose environments are known by their ids alone, by the beginning of these ids.
PACKAGES = {"ALE/": "ale_py", "BabyAI-": "minigrid", "MiniGrid-": "minigrid", "popgym-": "popgym"}


def make_env(cfg: EnvConfig) -> TransformedEnv:
    """Build CartPole, or another environment, with everything that recurrent DQN reads.

    The observation is ``"observation"`` ``[..., n]``, float32, for numbers (two entries of CartPole's four
    when masked), ``"pixels"`` ``[..., pictures, size, size]``, uint8, and ``"codes"`` ``[..., n]``, int32;
    ``"action_mask"`` ``[..., actions]`` is true for legal actions. With ``previous`` there is
    also ``"previous"``, the last action, one-hot, and its reward: ``[..., actions + 1]``. ``"is_init"`` and
    ``"step_count"`` are ``[..., 1]``. The batch size is ``[num_envs]``, or empty for one environment. An
    episode of CartPole ends when the pole falls or the cart leaves the track (``"terminated"``), or after 500
    steps (``"truncated"``). Every reward is multiplied by ``reward_scale``; CartPole's are 1.

    :class:`recdqn.envs.GymnasiumEnv` writes these entries. Transforms can be appended.

    Raises:
        ConfigError: if the environment cannot be made, its actions are no finite number of choices, or its
            observations are of another kind than ``cfg`` says.
        UserError: in a later call, if the environment fails.

    Example:
        >>> env = make_env(EnvConfig(num_envs=1))
        >>> env.rollout(3)["observation"].shape
        torch.Size([3, 2])
    """
    # A vectorised Gymnasium environment costs one TorchRL step; SerialEnv would cost num_envs of them.
    env = _make_one(cfg, 0) if cfg.num_envs == 1 else make_vector_env(cfg)
    return OpenEnv(GymnasiumEnv(env, cfg), Compose())


@float32()
def add_primers(env: TransformedEnv, policy: TensorDictModule) -> TransformedEnv:
    """Append the primers of the policy's recurrent layers to ``env``, and return it.

    A primer enters the recurrent state into the environment's specs, so that a reset fills it with zeros and
    a step carries it over. Without it the policy runs and starts every step from zeros. A policy without
    recurrent layers needs none.

    Args:
        env: an environment in which ``policy`` acts; it is changed in place, as by ``append_transform``.
        policy: from :func:`recdqn.policy.make_policy`, or any other.

    Example:
        >>> env = make_env(cfg.env)
        >>> policy = make_policy(cfg.policy, env)
        >>> add_primers(env, policy).rollout(3, policy)["recurrent_state_h"].shape
        torch.Size([32, 3, 1, 64])
    """
    primers = get_primers_from_module(policy, warn=False)
    return env if primers is None else env.append_transform(primers)


def make_vector_env(cfg: EnvConfig) -> gym.vector.SyncVectorEnv | Workers:
    """Build the Gymnasium environments below :func:`make_env`, which step together.

    Observations are whole vectors ``[num_envs, n]``, float32, or the last ``stack`` of them as
    ``[num_envs, stack, n]``, or ``{"pixels": [num_envs, 1, size, size]}``, uint8; rewards are not scaled. An
    environment whose episode has ended waits for ``reset(options={"reset_mask": ...})``.

    Raises:
        ConfigError: as :func:`make_env`.
    """
    makers = [partial(_make_one, cfg, copy) for copy in range(cfg.num_envs)]
    try:
        if cfg.workers:
            return Workers(makers, str(cfg.id), cfg.step_seconds)
        made = [partial(_itself, env) for env in _all_or_none(makers)]
        return gym.vector.SyncVectorEnv(made, autoreset_mode=gym.vector.AutoresetMode.DISABLED)
    except RuntimeError as error:
        raise ConfigError(f"env.id={cfg.id!r} makes environments that differ: {first_line(error)}") from error


def _all_or_none(makers: Sequence[Callable[[], gym.Env]]) -> list[gym.Env]:
    """Make environments; if one of them fails, close those before it."""
    with contextlib.ExitStack() as stack:
        envs = [stack.enter_context(contextlib.closing(maker())) for maker in makers]
        stack.pop_all()
    return envs


def _itself(env: gym.Env) -> gym.Env:
    return env


def _make_one(cfg: EnvConfig, copy: int) -> gym.Env:
    if cfg.observation == "pixels":
        prepare_display()
    opened: Any = open_env(cfg)
    env: gym.Env = CheckedEnv(
        opened,
        f"{cfg.id} (copy {copy})",
        reader_of(opened.observation_space, cfg, int(opened.action_space.n)),
    )
    if cfg.stack > 1:
        env = gym.wrappers.FrameStackObservation(env, cfg.stack, padding_type="reset")
    env = Replayable(env, alone=cfg.workers)  # beneath what draws
    return RenderedPixels(env, cfg.image_size) if cfg.observation == "pixels" else env


def open_env(cfg: EnvConfig) -> gym.Env:
    """Make one Gymnasium environment by its name, with a time limit and actions that count from 0.

    It can render where frames are needed: for ``"pixels"``, and with ``num_envs=1``, where it may be filmed.
    A ``"module:function"`` chooses its own render mode.

    Raises:
        ConfigError: if it cannot be made, or ``cfg`` does not fit its spaces.
    """
    env = _create(cfg)
    actions = _check_actions(env, cfg)
    if cfg.observation == "pixels" and env.render_mode != "rgb_array":
        raise ConfigError(
            f"env.observation='pixels': {cfg.id} does not draw, its render_mode is {env.render_mode!r}: "
            "expected 'rgb_array'; make it with that, or use observation='whole'"
        )
    if not isinstance(actions, Discrete):
        env = OneChoice(env)
    elif actions.start:
        env = gym.wrappers.TransformAction(env, partial(np.add, actions.start), Discrete(int(actions.n)))
    if env.spec is None or env.spec.max_episode_steps is None:
        env = gym.wrappers.TimeLimit(env, cfg.max_steps)
    return env


def reader_of(space: Any, cfg: EnvConfig, actions: int) -> Reader | None:
    """Return what reads observations of ``space``; ``None`` for a plain vector or a rendered picture.

    Args:
        space: of the environment's observations.
        cfg: how it is seen.
        actions: number of actions.

    Raises:
        ConfigError: if ``cfg`` does not fit the space.
    """
    plain = is_vector(space) and not any("grid" in how for how in cfg.arrays) and cfg.entries == ("all",)
    if cfg.mask == "none" and (plain or cfg.observation == "pixels"):
        reader, seen = None, {"observation": space} if plain else {}
    else:
        reader = Reader(space, cfg, actions)
        seen = reader.spaces
    if cfg.observation == "pixels":
        return reader
    others = [key for key in seen if key != "observation"]
    if cfg.observation == "masked" and (set(others) - {MASK} or "observation" not in seen):
        raise ConfigError(
            f"env.observation='masked': {cfg.id} shows more than a vector of numbers; expected 'whole', or "
            "env.entries that are numbers"
        )
    if cfg.stack > 1 and others:
        raise ConfigError(f"env.stack={cfg.stack}: expected 1, because {cfg.id} shows more than one vector")
    if "observation" in seen:
        _check_vector(seen["observation"].shape[0], cfg)
    return reader


def declared_spaces(cfg: EnvConfig) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """Return the observations and the actions as the environment declares them, before any transform."""
    with contextlib.closing(_create(cfg)) as env:
        return env.observation_space, _check_actions(env, cfg)


def _create(cfg: EnvConfig) -> gym.Env:
    try:
        for prefix, package in PACKAGES.items():
            if str(cfg.id).startswith(prefix) and importlib.util.find_spec(package) is not None:
                importlib.import_module(package)  # it registers its environments
        function = _function(str(cfg.id))
        env = gym.make(str(cfg.id)) if function is None else function()
        draw = cfg.observation == "pixels" or cfg.num_envs == 1
        if function is None and draw and "rgb_array" in env.metadata.get("render_modes", ()):
            env.close()
            env = _drawing(cfg)
    except (Exception, SystemExit) as error:  # a module without a main guard may exit
        if "only compatible with Box continuous actions" in str(error):
            raise ConfigError(
                f"env.id={cfg.id!r} cannot be made: a wrapper for continuous actions is around discrete "
                "ones; leave it out, MultiDiscrete and MultiBinary actions need no wrapper"
            ) from error
        raise ConfigError(
            f"env.id={cfg.id!r} cannot be made: {first_line(error)}; expected one of Gymnasium's ids, "
            "or the 'module:function' of a function that makes an environment"
        ) from error
    if not isinstance(env, gym.Env):
        raise ConfigError(f"env.id={cfg.id!r} makes a {type(env).__name__}: expected a gymnasium.Env")
    return env


def _drawing(cfg: EnvConfig) -> gym.Env:
    """Make an environment that renders, unless that fails and no picture is needed."""
    try:
        return gym.make(str(cfg.id), render_mode="rgb_array")
    except Exception:
        if cfg.observation == "pixels":
            raise
        return gym.make(str(cfg.id))


def _function(name: str) -> Callable[[], Any] | None:
    """Find the function ``"module:function"``; ``None`` if the module has none: ``name`` may be an id."""
    if ":" not in name:
        return None
    try:
        found = resolve(name)
    except MissingAttribute:
        module, _, path = name.partition(":")
        if module == "__main__" and path not in gym.registry:
            raise UserError(
                f"the program's own file, or a notebook, defined {path!r}: put it into a module of its own"
            ) from None
        return None
    return found if callable(found) else None


def _check_actions(env: gym.Env, cfg: EnvConfig) -> gym.Space[Any]:
    actions = getattr(env, "action_space", None)
    choices = sizes(actions)
    if choices is None:
        bins = "gymnasium.wrappers.DiscretizeAction(env, bins=5)"
        cure = f"wrap it: {bins}" if isinstance(actions, Box) else "wrap it so that they are Discrete"
        raise ConfigError(
            f"env.id={cfg.id!r} has actions {short(actions)}: expected a finite number of choices; {cure}"
        )
    if not 1 <= math.prod(choices) <= MOST:
        raise ConfigError(
            f"env.id={cfg.id!r} has actions {short(actions)}, {math.prod(choices):,} combinations: expected "
            f"1 to {MOST:,}; wrap it so that some choices are fixed"
        )
    assert isinstance(actions, gym.Space)
    return actions


def _check_vector(size: int, cfg: EnvConfig) -> None:
    if cfg.observation == "masked":
        if not cfg.visible or max(cfg.visible) >= size:
            raise ConfigError(
                f"env.visible={cfg.visible}: expected some of 0 to {size - 1}, the entries of {cfg.id}; "
                "observation='whole' shows all of them"
            )
        size = len(cfg.visible)
    for name, values in (("loc", cfg.loc), ("scale", cfg.scale)):
        if len(values) not in (1, size):
            raise ConfigError(f"env.{name}={values}: expected 1 or {size} numbers")
