"""Every number of the project: configurations, presets and run profiles (all chapters).

Values marked [dqn] follow Mnih et al. (2015), [r2d2] Kapturowski et al. (2019); the others were chosen by
trying; what the presets reach is recorded in ``results/``.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

import gymnasium as gym

ENV_ID = "CartPole-v1"
MAX_RETURN = 500  # environment steps: CartPole-v1's time limit, and the most there is to gain


class UserError(Exception):
    """Input that cannot be used; the message is one line for a person, and the command line exits with 2."""


class ConfigError(UserError, ValueError):
    """A setting that cannot be used: the message names it, what was expected, and what to try."""


def _number(default: float | tuple, low: float, high: float = math.inf) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


class _Checked:
    """Checks every field of a configuration against its range or its list of choices."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for f in dataclasses.fields(self):
            value, choices = getattr(self, f.name), get_args(hints[f.name])
            if get_origin(hints[f.name]) is Literal and value not in choices:
                raise ConfigError(f"{f.name}={value!r}: choose one of {', '.join(map(repr, choices))}")
            if "low" not in f.metadata:
                continue
            low, high = f.metadata["low"], f.metadata["high"]
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, bool) or not isinstance(item, int | float) or not low <= item <= high:
                    top = "" if high == math.inf else f" and at most {high:g}"
                    raise ConfigError(f"{f.name}={item!r}: expected a number of at least {low:g}{top}")


@dataclass(frozen=True)
class EnvConfig(_Checked):
    """CartPole, or another environment, seen through transforms (chapter 1).

    Attributes:
        id: one of Gymnasium's ids, like ``"CartPole-v1"`` or ``"module:Env-v0"``; or ``"module:function"``,
            the name of a function without arguments that returns a ``gymnasium.Env``. It is the second if the
            module has that function. The function itself can be given as well; its name is kept. One of a
            script or a notebook is found from there only.
        observation: ``"masked"`` (the entries ``visible`` of a vector: CartPole without velocities),
            ``"pixels"`` (the environment drawn) or ``"whole"`` (what the environment returns: a vector, or a
            picture, which is made grey and small).
        num_envs: environments that step together; 1 gives an environment without a batch dimension.
        image_size: height and width of the picture, in pixels.
        visible: which entries of the vector ``"masked"`` shows.
        loc, scale: of vectors: the network sees ``scale * observation + loc``; one entry each, or one for
            every entry of the observation.
        reward_scale: factor on the reward. 0.01 makes the discounted sum of CartPole's rewards at most 1.
        max_steps: environment steps after which an episode is cut, where the environment has no time limit.
        workers: whether every environment runs in a process of its own, as one that may hang, crash or need
            much time should. An evaluation starts one for each of its episodes.
        step_seconds: the most seconds that a step or a reset of all the workers may take.
    """

    id: str | Callable[[], gym.Env] = ENV_ID
    observation: Literal["masked", "pixels", "whole"] = "masked"
    num_envs: int = _number(32, 1)
    image_size: int = _number(84, 36)
    visible: tuple[int, ...] = _number((0, 2), 0)
    loc: tuple[float, ...] = (0.0, 0.0)
    scale: tuple[float, ...] = (2.0, 20.0)
    reward_scale: float = _number(0.01, 0.0)
    max_steps: int = _number(10_000, 1)
    workers: bool = False
    step_seconds: float = _number(60.0, 0.01)

    def __post_init__(self) -> None:
        if callable(self.id):  # its name can be saved, and looked up in another process
            object.__setattr__(self, "id", _name_of(self.id))
        if not isinstance(self.id, str):
            raise ConfigError(f"id={self.id!r}: expected an environment's id, or a function that makes one")
        super().__post_init__()
        if self.workers and self.num_envs == 1:
            raise ConfigError("workers=True: expected num_envs of at least 2")


def _name_of(function: Callable) -> str:
    """Return ``"module:function"``, where that leads back to ``function``."""
    name = f"{getattr(function, '__module__', None)}:{getattr(function, '__qualname__', None)}"
    try:
        found = pkgutil.resolve_name(name)
    except (ValueError, ImportError, AttributeError):
        found = None
    if found is not function:
        raise ConfigError(f"id={function!r} cannot be found by its name: put it at the top level of a module")
    return name


@dataclass(frozen=True)
class PolicyConfig(_Checked):
    """Features, memory, Q-values and exploration (chapter 2).

    Attributes:
        cell: ``"lstm"`` or ``"gru"``.
        hidden_size: units of the recurrent layer.
        features: units of the layer before the memory.
        contrast: what black is to the network that sees pictures; white is 0.
        channels, kernels, strides: the convolutions for pictures, one entry per layer.
        bfloat16: whether the convolutions run in bfloat16, where the processor has instructions for it.
        head: units of the hidden layer between the memory and the Q-values.
        initial_value: the last bias, so what every Q-value starts near. ``reward / (1 - gamma)`` is the value
            of an episode that never ends; starting there spares the network the climb.
        eps_start, eps_end: share of random actions at the beginning, and from ``eps_frames`` on.
        eps_frames: environment steps over which the share of random actions falls in a straight line.
    """

    cell: Literal["lstm", "gru"] = "lstm"
    hidden_size: int = _number(64, 1)
    features: int = _number(64, 1)
    contrast: float = _number(4.0, 0.0)
    channels: tuple[int, ...] = _number((16, 32, 32), 1)
    kernels: tuple[int, ...] = _number((2, 4, 3), 1)
    strides: tuple[int, ...] = _number((1, 2, 1), 1)
    bfloat16: bool = True
    head: int = _number(64, 1)
    initial_value: float = 1.0
    eps_start: float = _number(1.0, 0.0, 1.0)
    eps_end: float = _number(0.05, 0.0, 1.0)
    eps_frames: int = _number(16_000, 1)


@dataclass(frozen=True)
class LossConfig(_Checked):
    """The recurrent Q-learning loss (chapter 4).

    Attributes:
        gamma: discount per environment step [dqn].
        n_steps: rewards that are summed before the target bootstraps, in environment steps [r2d2].
        double_dqn: whether the online network picks the action that the target network values.
        burn_in: steps of a slice that only warm the recurrent state, in environment steps; [r2d2] use 40 of
            120, the slices here are short and their stored states fresh.
        value_rescale: whether the network learns values shrunk by a square root, for returns of very
            different sizes; CartPole's are of one size.
        tau: share of the online weights that moves into the target network at each update.
    """

    gamma: float = _number(0.99, 0.0, 1.0)
    n_steps: int = _number(5, 1)
    double_dqn: bool = True
    burn_in: int = _number(0, 0)
    value_rescale: bool = False
    tau: float = _number(0.01, 0.0, 1.0)


@dataclass(frozen=True)
class ReplayConfig(_Checked):
    """Storage and sampling (chapter 5).

    Attributes:
        capacity: transitions kept on disk. Old ones were played more at random: their rewards, summed over
            ``n_steps``, tell of falls that nobody plays any more. Too few kept harm as well: chapter 6.
        slice_len: environment steps of one slice; at an episode's ends it is shorter.
        slices: slices in a batch.
        shift: the most pixels by which the pictures of a slice are moved in a batch; see
            :class:`recdqn.replay.PictureReplayBuffer`.
    """

    capacity: int = _number(60_000, 1)
    slice_len: int = _number(20, 1)
    slices: int = _number(32, 1)
    shift: int = _number(3, 0)


@dataclass(frozen=True)
class TrainConfig(_Checked):
    """The loop (chapter 5).

    Attributes:
        total_frames: environment steps in all, over all environments; whole collections only.
        frames_per_batch: environment steps per collection, over all environments.
        warmup_frames: environment steps before the first update.
        updates: gradient steps per collection.
        learning_rate, final_learning_rate: of Adam, at the first and the last frame, a straight line between.
        max_grad_norm: a longer gradient is scaled down to this norm.
        average: the evaluated policy is a running average of the weights; share of it kept at each update.
        eval_every: collections between two evaluations.
        eval_episodes: greedy episodes per evaluation.
        solved_return: training stops when an evaluation and then ``solved_episodes`` more greedy episodes
            reach this mean return.
        solved_episodes: greedy episodes of the confirmation.
    """

    total_frames: int = _number(100_000, 1)
    frames_per_batch: int = _number(64, 1)
    warmup_frames: int = _number(1_024, 0)
    updates: int = _number(8, 1)
    learning_rate: float = _number(5e-4, 0.0, 1.0)
    final_learning_rate: float = _number(1e-5, 0.0, 1.0)
    max_grad_norm: float = _number(10.0, 0.0)
    average: float = _number(0.999, 0.0, 1.0)
    eval_every: int = _number(25, 1)
    eval_episodes: int = _number(20, 1)
    solved_return: float = _number(475.0, 0.0)
    solved_episodes: int = _number(100, 1)

    @property
    def collections(self) -> int:
        """How many collections fit into ``total_frames``; at least one."""
        return max(1, self.total_frames // self.frames_per_batch)


@dataclass(frozen=True)
class Config(_Checked):
    """Everything a run needs (all chapters): ``Config.preset("masked-cartpole", seed=0)``.

    Attributes:
        name: the preset it came from.
        seed: of every random number in a run.
        device: where networks and batches live, for example ``"cpu"`` or ``"cuda"``.
        threads: PyTorch's threads while training; one is often faster than two for networks this small.
        env, policy, loss, replay, train: the parts.
    """

    name: str = "masked-cartpole"
    seed: int = _number(0, 0)
    device: str = "cpu"
    threads: int = _number(1, 1)
    env: EnvConfig = field(default_factory=EnvConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @staticmethod
    def preset(name: str, seed: int = 0) -> Config:
        """Return the preset ``name`` with its seed.

        Raises:
            ConfigError: for an unknown name (the message lists the known ones) or a negative seed.
        """
        if name not in PRESETS:
            raise ConfigError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
        return dataclasses.replace(PRESETS[name], name=name, seed=seed)

    def replace(self, **parts: Any) -> Config:
        """Return a copy with other values; a dictionary changes fields of a part.

        Example:
            >>> Config.preset("masked-cartpole").replace(seed=1, train={"updates": 4}).train.updates
            4
        """
        for key, value in parts.items():
            if isinstance(value, dict):
                parts[key] = dataclasses.replace(getattr(self, key), **value)
        return dataclasses.replace(self, **parts)

    def to_dict(self) -> dict[str, Any]:
        """Return nested dictionaries of plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Config:
        """Rebuild a configuration from :meth:`to_dict` (JSON's lists become tuples again)."""
        parts = {"env": EnvConfig, "policy": PolicyConfig, "loss": LossConfig}
        parts |= {"replay": ReplayConfig, "train": TrainConfig}
        try:
            built = dict(values)
            for name in parts.keys() & values.keys():
                fields = {k: tuple(v) if isinstance(v, list) else v for k, v in values[name].items()}
                built[name] = parts[name](**fields)
            return Config(**built)
        except TypeError as error:
            raise ConfigError(f"not a configuration of this version of recdqn: {error}") from None


PRESETS: dict[str, Config] = {
    "masked-cartpole": Config(),
    "pixel-cartpole": Config(
        env=EnvConfig(observation="pixels", num_envs=16),
        policy=PolicyConfig(features=128, eps_frames=10_000),
        replay=ReplayConfig(capacity=16_000),
        # drawing pictures makes episodes slow, so there are fewer of them
        train=TrainConfig(total_frames=60_000, learning_rate=1e-3, eval_every=50, eval_episodes=10),
    ),
}


@dataclass(frozen=True)
class Profile:
    """How much the book runs: set by the variable ``RECDQN_PROFILE`` (all chapters).

    Attributes:
        name: ``"smoke"``, ``"book"`` or ``"full"``.
        masked_frames, pixel_frames: the most environment steps that a chapter trains on each preset.
        eval_episodes: greedy episodes per evaluation.
        updates: gradient steps in a cell that only shows an update.
        samples: random steps in a cell that measures something about the environment.
        repeats: repetitions in a cell that measures time.
    """

    name: str
    masked_frames: int
    pixel_frames: int
    eval_episodes: int
    updates: int
    samples: int
    repeats: int

    @staticmethod
    def current() -> Profile:
        """Return the profile that ``RECDQN_PROFILE`` names; ``book`` where it is not set."""
        name = os.environ.get("RECDQN_PROFILE", "book")
        if name not in PROFILES:
            raise ConfigError(f"RECDQN_PROFILE={name!r}: choose one of {', '.join(PROFILES)}")
        return PROFILES[name]

    def cut(self, cfg: Config) -> Config:
        """Return ``cfg`` shortened to what this profile runs."""
        frames = self.pixel_frames if cfg.env.observation == "pixels" else self.masked_frames
        return cfg.replace(
            train={
                "total_frames": min(frames, cfg.train.total_frames),
                "eval_episodes": min(self.eval_episodes, cfg.train.eval_episodes),
            }
        )


PROFILES: dict[str, Profile] = {
    "smoke": Profile("smoke", 1_280, 1_152, eval_episodes=2, updates=2, samples=500, repeats=2),
    "book": Profile("book", 100_000, 2_048, eval_episodes=20, updates=100, samples=2_000, repeats=10),
    "full": Profile("full", 100_000, 60_000, eval_episodes=20, updates=100, samples=2_000, repeats=20),
}
