"""Every number of the project: configurations, presets and run profiles (all chapters).

Values marked [dqn] follow Mnih et al. (2015), [r2d2] Kapturowski et al. (2019); the others were chosen by
trying; what the presets reach is recorded in ``results/``.
"""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Self, Union, get_args, get_origin, get_type_hints

import gymnasium as gym

from recdqn.errors import ConfigError, UserError, resolve

ENV_ID = "CartPole-v1"
MAX_RETURN = 500  # environment steps: CartPole-v1's time limit, and the most there is to gain
LONGEST = 100  # characters of a text
MOST_FRAMES = 10**12  # environment steps: years of them
MOST_STEPS = 100_000  # in a batch


def _number(
    default: float | tuple, low: float, high: float, multiple: int | None = None, entries: int = 100
) -> Any:
    """A field for numbers in a range; ``entries`` is the most that a tuple of them may have."""
    return field(
        default=default, metadata={"low": low, "high": high, "multiple": multiple, "entries": entries}
    )


class _Checked:
    """Refuses settings that cannot be used, and says in one line everything that is wrong with them."""

    # Before __init__, which would refuse an unknown name by itself and say nothing of the others.
    def __new__(cls, *args: Any, **values: Any) -> Self:
        values |= zip((f.name for f in dataclasses.fields(cls)), args, strict=False)
        prefix = cls.__name__.removesuffix("Config").lower()
        wrong, known = _look(cls, values, f"{prefix}." if prefix else "")
        wrong += _broken(RULES, known)
        if wrong:
            _refuse(wrong + _broken(TRAINING_RULES, known))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Make parts of dictionaries, and floats of whole numbers where floats are expected."""
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if isinstance(value, dict):
                object.__setattr__(self, name, hint(**value))
            elif hint is float:
                object.__setattr__(self, name, float(value))
            elif hint == tuple[float, ...]:
                object.__setattr__(self, name, tuple(map(float, value)))


def _refuse(wrong: list[str]) -> None:
    if wrong:
        raise ConfigError(" ".join("; ".join(wrong).split()))  # one line, whatever the values print


def _look(cls: type, values: dict[str, Any], prefix: str) -> tuple[list[str], dict[str, Any]]:
    """Return what is wrong with single fields, and the others' values by dotted name."""
    hints, wrong, known = get_type_hints(cls), [], {}
    for name in [name for name in values if name not in hints]:
        close = difflib.get_close_matches(str(name), hints, n=1)
        advice = f"did you mean {prefix}{close[0]}?" if close else f"choose one of {', '.join(hints)}"
        wrong.append(f"{prefix}{name}={_show(values[name])}: there is no such setting; {advice}")
    for f in dataclasses.fields(cls):
        hint, name = hints[f.name], prefix + f.name
        default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        value = values.get(f.name, default)
        if isinstance(hint, type) and issubclass(hint, _Checked) and isinstance(value, hint | dict):
            inside = value if isinstance(value, dict) else vars(value)
            wrong_inside, known_inside = _look(hint, inside, f"{name}.")
            wrong += wrong_inside
            known |= known_inside
        elif _fits(value, hint, f.metadata):
            known[name] = value
        else:
            choose = "" if get_origin(hint) is Literal else "expected "
            wrong.append(f"{name}={_show(value)}: {choose}{_wanted(hint, f.metadata)}")
    return wrong, known


def _fits(value: Any, hint: Any, limits: Mapping[str, Any]) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one, limits) for one in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin is tuple:
        few = isinstance(value, tuple) and 1 <= len(value) <= limits["entries"]
        return few and all(_fits(item, args[0], limits) for item in value)
    if hint is str:
        return isinstance(value, str) and 1 <= len(value) <= LONGEST and value.isprintable()
    if hint not in (int, float):
        return isinstance(value, origin or hint)
    if isinstance(value, bool) or not isinstance(value, int if hint is int else int | float):
        return False
    inside = limits["low"] <= value <= limits["high"]  # neither infinite nor NaN
    return inside and (limits["multiple"] is None or value % limits["multiple"] == 0)


def _wanted(hint: Any, limits: Mapping[str, Any]) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_wanted(one, limits) for one in args)
    if origin is Literal:
        return f"choose one of {', '.join(map(repr, args))}"
    if origin is tuple:
        return f"a tuple of 1 to {limits['entries']} entries, each {_wanted(args[0], limits)}"
    if hint is str:
        return f"printable text of 1 to {LONGEST} characters"
    if hint is bool:
        return "True or False"
    if hint not in (int, float):
        return "None" if hint is NoneType else f"an instance of {hint.__name__}"
    low, high = (f"{n:,}" if isinstance(n, int) else f"{n:g}" for n in (limits["low"], limits["high"]))
    step = "" if limits["multiple"] is None else f", a multiple of {limits['multiple']}"
    return f"a {'whole ' if hint is int else ''}number from {low} to {high}{step}"


def _show(value: Any) -> str:
    """``repr``, cut where it is long."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a very large number"


class _Rule(NamedTuple):
    """What fields must be together: ``expected`` says it of the first, with the values of all."""

    fields: tuple[str, ...]
    holds: Callable[..., bool]
    expected: str


def _broken(rules: tuple[_Rule, ...], known: dict[str, Any]) -> list[str]:
    """Return which rules do not hold, of those whose fields are all known."""
    broken = []
    for rule in rules:
        if known.keys() >= set(rule.fields):
            values = [known[name] for name in rule.fields]
            if not rule.holds(*values):
                expected = rule.expected.format(*values)
                broken.append(f"{rule.fields[0]}={_show(values[0])}: expected {expected}")
    return broken


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
    num_envs: int = _number(32, 1, 10_000)
    image_size: int = _number(84, 36, 400, multiple=4)
    visible: tuple[int, ...] = _number((0, 2), 0, 1_000_000)
    loc: tuple[float, ...] = _number((0.0, 0.0), -1_000_000, 1_000_000)
    scale: tuple[float, ...] = _number((2.0, 20.0), -1_000_000, 1_000_000)
    reward_scale: float = _number(0.01, 1e-6, 1_000_000)
    max_steps: int = _number(10_000, 1, 1_000_000)
    workers: bool = False
    step_seconds: float = _number(60.0, 0.01, 1_000_000)

    def __post_init__(self) -> None:
        if callable(self.id):  # its name can be saved, and looked up in another process
            object.__setattr__(self, "id", _name_of(self.id))
        super().__post_init__()


def _name_of(function: Callable) -> str:
    """Return ``"module:function"``, where that leads back to ``function``."""
    name = f"{getattr(function, '__module__', None)}:{getattr(function, '__qualname__', None)}"
    try:
        found = resolve(name)
    except UserError:
        found = None
    if found is not function:
        raise ConfigError(
            f"env.id={function!r} cannot be found by its name: put it at the top level of a module"
        )
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
    hidden_size: int = _number(64, 1, 2_048)
    features: int = _number(64, 1, 2_048)
    contrast: float = _number(4.0, 0, 1_000)
    channels: tuple[int, ...] = _number((16, 32, 32), 1, 512, entries=8)
    kernels: tuple[int, ...] = _number((2, 4, 3), 1, 16, entries=8)
    strides: tuple[int, ...] = _number((1, 2, 1), 1, 16, entries=8)
    bfloat16: bool = True
    head: int = _number(64, 1, 2_048)
    initial_value: float = _number(1.0, -1_000_000, 1_000_000)
    eps_start: float = _number(1.0, 0, 1)
    eps_end: float = _number(0.05, 0, 1)
    eps_frames: int = _number(16_000, 1, MOST_FRAMES)


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

    gamma: float = _number(0.99, 0, 1)
    n_steps: int = _number(5, 1, 10_000)
    double_dqn: bool = True
    burn_in: int = _number(0, 0, 10_000)
    value_rescale: bool = False
    tau: float = _number(0.01, 0, 1)


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

    capacity: int = _number(60_000, 1, 100_000_000)
    slice_len: int = _number(20, 1, 10_000)
    slices: int = _number(32, 1, 10_000)
    shift: int = _number(3, 0, 100)


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
        save_seconds: between two checkpoints of a run that has a folder.
    """

    total_frames: int = _number(100_000, 1, MOST_FRAMES)
    frames_per_batch: int = _number(64, 1, 100_000)
    warmup_frames: int = _number(1_024, 0, MOST_FRAMES)
    updates: int = _number(8, 1, 100_000)
    learning_rate: float = _number(5e-4, 0, 1)
    final_learning_rate: float = _number(1e-5, 0, 1)
    max_grad_norm: float = _number(10.0, 0, 1_000_000_000)
    average: float = _number(0.999, 0, 1)
    eval_every: int = _number(25, 1, MOST_FRAMES)
    eval_episodes: int = _number(20, 1, 10_000)
    solved_return: float = _number(475.0, 0, 1_000_000_000)
    solved_episodes: int = _number(100, 1, 10_000)
    save_seconds: float = _number(60.0, 0, 1_000_000)

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
    seed: int = _number(0, 0, 2**32 - 1)
    device: str = "cpu"
    threads: int = _number(1, 1, 1_024)
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
            if isinstance(value, dict) and isinstance(part := getattr(self, key, None), _Checked):
                parts[key] = vars(part) | value
        return Config(**(vars(self) | parts))

    def to_dict(self) -> dict[str, Any]:
        """Return nested dictionaries of plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Config:
        """Rebuild a configuration from :meth:`to_dict` (JSON's lists become tuples again)."""
        if not isinstance(values, dict):
            raise ConfigError(f"{_show(values)} is no configuration: expected a dictionary")
        return Config(**{str(name): _tuples(value) for name, value in values.items()})

    def check_training(self) -> None:
        """Refuse what only training cannot use; all else is refused when a configuration is built.

        Raises:
            ConfigError: naming every field that does not fit the others.
        """
        _refuse(_broken(TRAINING_RULES, _look(Config, vars(self), "")[1]))


def _tuples(value: Any) -> Any:
    """Turn JSON's lists into tuples, in a part as well."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _convolved(size: int, kernels: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """How many places are left of ``size`` pixels: squares of four become one, then convolutions."""
    size //= 4
    for kernel, stride in zip(kernels, strides, strict=False):
        size = (size - kernel) // stride + 1 if size >= kernel else 0
    return size


RULES = (
    _Rule(
        ("env.workers", "env.num_envs"),
        lambda workers, envs: not workers or envs > 1,
        "False, or env.num_envs of at least 2",
    ),
    _Rule(
        ("policy.kernels", "policy.channels"),
        lambda kernels, channels: len(kernels) == len(channels),
        "one entry for each of policy.channels={1}",
    ),
    _Rule(
        ("policy.strides", "policy.channels"),
        lambda strides, channels: len(strides) == len(channels),
        "one entry for each of policy.channels={1}",
    ),
    _Rule(
        ("policy.eps_end", "policy.eps_start"),
        lambda end, start: end <= start,
        "at most policy.eps_start={1}",
    ),
    _Rule(
        ("env.image_size", "policy.kernels", "policy.strides", "env.observation"),
        lambda size, kernels, strides, seen: seen == "masked" or _convolved(size, kernels, strides) > 0,
        "a picture that is large enough for policy.kernels={1} and policy.strides={2}",
    ),
)
# Only training needs these: a configuration that breaks them still makes an environment or a policy.
TRAINING_RULES = (
    _Rule(
        ("train.frames_per_batch", "env.num_envs"),
        lambda frames, envs: frames % envs == 0,
        "a multiple of env.num_envs={1}",
    ),
    _Rule(
        ("train.frames_per_batch", "env.num_envs"),  # TorchRL 0.14.1 cannot store one step each
        lambda frames, envs: envs == 1 or frames != envs,
        "at least two steps of each of env.num_envs={1}",
    ),
    _Rule(
        ("train.total_frames", "train.frames_per_batch", "train.warmup_frames"),
        lambda total, batch, warmup: max(total // batch, 1) * batch >= warmup,
        "enough for train.warmup_frames={2} in whole collections of train.frames_per_batch={1}, "
        "or no update would be made",
    ),
    _Rule(
        ("replay.capacity", "train.frames_per_batch"),
        lambda capacity, frames: capacity >= frames,
        "room for a collection of train.frames_per_batch={1}",
    ),
    _Rule(
        ("replay.slice_len", "replay.slices"),
        lambda length, slices: length * slices <= MOST_STEPS,
        f"at most {MOST_STEPS:,} steps in a batch of replay.slices={{1}}",
    ),
    _Rule(
        ("loss.burn_in", "replay.slice_len"),
        lambda burn_in, length: burn_in < length,
        "less than replay.slice_len={1}, or no step would be left to learn from",
    ),
    *(
        _Rule(
            (f"env.{name}", "env.observation", "env.visible"),
            lambda values, seen, visible: seen != "masked" or len(values) in (1, len(visible)),
            "1 entry, or one for each of env.visible={2}",
        )
        for name in ("loc", "scale")
    ),
)


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
