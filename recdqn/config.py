"""All settings of a run, their defaults and their ranges.

Values marked [dqn] follow Mnih et al. (2015), those marked [r2d2] Kapturowski et al. (2019). The others were
found by experiment; the results of the presets are recorded in ``results/``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field

from recdqn.errors import ConfigError, show, suggest
from recdqn.errors import UserError as UserError  # settings raise it, so it can be imported from here too
from recdqn.fields import (
    Bool,
    Count,
    Entries,
    Float,
    Frames,
    Int,
    Layers,
    Name,
    Part,
    Scale,
    Share,
    Text,
    Units,
    dotted,
    name_of,
    settings,
)
from recdqn.presets import NEUTRAL, PRESETS, neutral
from recdqn.rules import misfits

ENV_ID = "CartPole-v1"
MAX_RETURN = 500  # environment steps: the time limit of CartPole-v1, and its highest return


@settings
class EnvConfig(Part):
    """An environment and how it is seen.

    The defaults fit CartPole. With another ``id`` the agent sees the whole observation, and observations and
    rewards are not scaled.

    Attributes:
        id: a Gymnasium id, like ``"CartPole-v1"`` or ``"module:Env-v0"``; or ``"module:function"``, the name
            of a function without arguments that returns a ``gymnasium.Env``. It is the second if the module
            has that function. The function itself can be given as well; its name is kept. A function of a
            script or a notebook is found from there only.
        observation: ``"masked"`` (the entries ``visible`` of a vector: CartPole without velocities),
            ``"pixels"`` (the rendered environment) or ``"whole"`` (the observation as it is, a space of any
            kind; pictures become small and grey).
        num_envs: environments that step together; 1 gives an environment without a batch dimension.
        image_size: height and width of a picture, in pixels.
        visible: indices of the vector's entries that ``"masked"`` shows.
        stack: vectors that the network sees side by side, the last ones [dqn]. With 4, an agent without
            memory sees velocities as differences. The first one also fills the places before it.
        entries: entries of a ``Dict`` or ``Tuple`` that are seen, by name: ``"camera"``, ``"arm.angles"``, or
            ``"0"`` in a ``Tuple``. ``"all"`` shows all of them.
        arrays: how arrays of two or more axes are read: ``"picture"`` (colours or grey), ``"frames"``
            (several pictures, in the first or the last axis), ``"grid"`` (codes, each looked up in a table)
            or ``"numbers"``. One word for all, or ``"camera=picture"`` for one entry. ``"ask"`` refuses them.
        mask: name of the entry of the observation, or of ``info``, that tells which actions are legal, one
            number for each; ``"none"`` if all always are.
        loc, scale: of vectors: the network sees ``scale * observation + loc``; one entry, or one for every
            entry of the observation.
        previous: also show the policy its previous action, one-hot, and the scaled reward that it brought, as
            [r2d2] do; zeros at the start of an episode.
        reward_scale: factor on the reward. 0.005 makes the discounted sum of CartPole's rewards at most 1.
        max_steps: environment steps after which an episode is truncated, where the environment has no time
            limit.
        workers: run each environment in its own process, for environments that are slow, hang or crash. An
            evaluation starts one process for each of its episodes.
        step_seconds: time limit for one step or reset of all workers, in seconds.
        replay_seconds: time limit for replaying the actions of the current episodes when a run is resumed, in
            seconds; after that, new episodes begin.
    """

    id: Name = ENV_ID
    observation: Literal["masked", "pixels", "whole"] = "masked"
    num_envs: Count = 32
    image_size: Annotated[Int, Field(ge=36, le=400, multiple_of=4)] = 84
    visible: Entries[Annotated[Int, Field(ge=0, le=1_000_000)]] = (0, 2)
    stack: Annotated[Int, Field(ge=1, le=1_000)] = 1
    loc: Entries[Scale] = (0.0, 0.0)
    scale: Entries[Scale] = (2.0, 20.0)
    previous: Bool = False
    entries: Entries[Text] = ("all",)
    arrays: Entries[Text] = ("ask",)
    mask: Text = "none"
    reward_scale: Annotated[Float, Field(ge=1e-6, le=1_000_000)] = 0.005
    max_steps: Annotated[Int, Field(ge=1, le=1_000_000)] = 10_000
    workers: Bool = False
    step_seconds: Annotated[Float, Field(ge=0.01, le=1_000_000)] = 60.0
    replay_seconds: Annotated[Float, Field(ge=0, le=1_000_000)] = 60.0

    @classmethod
    def complete(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Add neutral values if the environment is not the default one."""
        return values if _id(values, ENV_ID) == ENV_ID else neutral("env", values)


@settings
class PolicyConfig(Part):
    """The network, from features over the recurrent layer to Q-values, and its exploration.

    Attributes:
        cell: type of the recurrent layer, ``"lstm"`` or ``"gru"``. ``"none"`` leaves it out: that policy
            decides from the current observation alone, and shows what memory is worth in a task.
        hidden_size: units of the recurrent layer.
        memory_span: steps that the recurrent layer can remember from the start: its gates begin with time
            constants between 2 and this number of steps (:cite:t:`tallec2018can`). 0 leaves PyTorch's
            initial values, with which a state halves at each step.
        features: units of the layer before the recurrent one.
        contrast: input value of a black pixel (white is 0).
        channels, kernels, strides: the convolutions for pictures, one entry per layer.
        bfloat16: run the layers for pictures in bfloat16, where the processor has instructions for it.
        head: units of the hidden layer between the recurrent layer and the Q-values.
        dueling: compute Q-values as the value of the state and the advantages of the actions, as
            :cite:t:`wang2016dueling` and [r2d2] do, with a hidden layer of ``head`` units for each.
        initial_value: initial value of the last bias, so that every Q-value starts near it.
            ``reward / (1 - gamma)`` is the value of an episode that never ends; starting there speeds up
            learning.
        eps_start, eps_end: share of random actions at the beginning, and from ``eps_frames`` on.
        eps_frames: environment steps over which the share of random actions falls linearly.
    """

    cell: Literal["lstm", "gru", "none"] = "lstm"
    hidden_size: Units = 64
    memory_span: Annotated[Int, Field(ge=0, le=1_000_000)] = 0
    features: Units = 64
    contrast: Annotated[Float, Field(ge=0, le=1_000)] = 4.0
    channels: Layers[Annotated[Int, Field(ge=1, le=512)]] = (16, 32, 32)
    kernels: Layers[Annotated[Int, Field(ge=1, le=16)]] = (2, 4, 3)
    strides: Layers[Annotated[Int, Field(ge=1, le=16)]] = (1, 2, 1)
    bfloat16: Bool = True
    head: Units = 64
    dueling: Bool = False
    initial_value: Scale = 1.0
    eps_start: Share = 1.0
    eps_end: Share = 0.05
    eps_frames: Frames = 8_000


@settings
class LossConfig(Part):
    """The recurrent Q-learning loss.

    Attributes:
        gamma: discount per environment step. With 0.99 [dqn] a reward 200 steps ahead counts 0.13, with 0.995
            it counts 0.37: the cart's drift to the edge of the track takes that long.
        n_steps: rewards that are summed before the target bootstraps, in environment steps [r2d2].
        double_dqn: whether the online network picks the action that the target network values.
        burn_in: steps at the start of a slice that only update the recurrent state, in environment steps;
            [r2d2] use 40 of 120, the slices here are short and their stored states recent.
        value_rescale: learn values that are rescaled by a square root, for tasks whose returns differ much in
            size [r2d2]; CartPole's do not.
        stored_state: whether a slice starts from the recurrent state stored with its first step [r2d2], or
            from zeros, as :cite:t:`hausknecht2015deep` do.
        tau: share of the online weights that moves into the target network at each update. Values spread from
            the end of an episode to its beginning by way of the target network, so a slow one delays them.
        target_every: updates after which the target network becomes a copy of the online one, as in [dqn];
            [r2d2] use 2,500. With 0 it moves by ``tau`` instead.
    """

    gamma: Share = 0.995
    n_steps: Count = 5
    double_dqn: Bool = True
    burn_in: Annotated[Int, Field(ge=0, le=10_000)] = 0
    value_rescale: Bool = False
    stored_state: Bool = True
    tau: Share = 0.03
    target_every: Annotated[Int, Field(ge=0, le=1_000_000_000)] = 0


@settings
class ReplayConfig(Part):
    """Storage and sampling.

    Attributes:
        capacity: transitions kept on disk, rounded up to a multiple of ``env.num_envs``. Old ones were
            collected with more exploration: their rewards, summed over ``n_steps``, describe mistakes that
            the current policy no longer makes. Too few harm as well.
        slice_len: environment steps of one slice; shorter at the ends of an episode.
        slices: slices in a batch.
        whole: draw an episode that fits into one slice only as a whole. Otherwise slices extend over its ends
            as over those of long ones, so few hold both, and an agent hardly learns what links them.
        period: draw only slices that begin at a multiple of this many environment steps in their episode;
            [r2d2] use half of the steps after burn-in. 0 draws slices at any step.
        shift: largest random translation of the pictures of a sampled slice, in pixels, with
            ``env.observation="pixels"``; see :class:`recdqn.replay.PixelReplayBuffer`.
        priority: exponent of the priorities of slices; with 0 there are none, and all steps are drawn equally
            often, unless ``period`` is set. [r2d2] use 0.9; see :class:`recdqn.replay.PrioritySliceSampler`.
        priority_max: share of the largest error in the priority of a slice, the rest is the mean; 0.9 [r2d2].
        importance: exponent of the weights that correct for priorities in the loss; 0 leaves them out.
            :cite:t:`schaul2016prioritized` raise it to 1, [r2d2] use 0.6.
    """

    capacity: Annotated[Int, Field(ge=1, le=100_000_000)] = 16_000
    slice_len: Count = 20
    slices: Count = 32
    whole: Bool = False
    period: Annotated[Int, Field(ge=0, le=100_000)] = 0
    shift: Annotated[Int, Field(ge=0, le=100)] = 3
    priority: Share = 0.0
    priority_max: Share = 0.9
    importance: Share = 0.0


@settings
class TrainConfig(Part):
    """The training loop.

    Attributes:
        total_frames: environment steps in total, over all environments, rounded down to whole collections,
            but at least one.
        frames_per_batch: environment steps per collection, over all environments.
        warmup_frames: environment steps before the first update.
        updates: gradient steps per collection.
        learning_rate, final_learning_rate: of Adam, at the first and the last frame, with a linear schedule.
        max_grad_norm: norm to which a larger gradient is scaled down.
        average: decay of the running average of the weights, per update; the average is what is evaluated.
        eval_every: collections between two evaluations.
        eval_episodes: greedy episodes per evaluation.
        solved_return: mean return that an evaluation, and then ``solved_episodes`` more greedy episodes, must
            reach for training to stop.
        solved_episodes: greedy episodes of that confirmation.
        save_seconds: seconds between two checkpoints (only with a run folder).
    """

    total_frames: Frames = 100_000
    frames_per_batch: Annotated[Int, Field(ge=1, le=100_000)] = 64
    warmup_frames: Annotated[Int, Field(ge=0, le=10**12)] = 1_024
    updates: Annotated[Int, Field(ge=1, le=100_000)] = 8
    learning_rate: Share = 5e-4
    final_learning_rate: Share = 1e-5
    max_grad_norm: Annotated[Float, Field(ge=0, le=1_000_000_000)] = 10.0
    average: Share = 0.995
    eval_every: Frames = 25
    eval_episodes: Count = 20
    solved_return: Annotated[Float, Field(ge=-1_000_000_000, le=1_000_000_000)] = 475.0
    solved_episodes: Count = 100
    save_seconds: Annotated[Float, Field(ge=0, le=1_000_000)] = 60.0

    @property
    def collections(self) -> int:
        """Number of whole collections in ``total_frames``; at least one."""
        return max(1, self.total_frames // self.frames_per_batch)


@settings
class ScaleConfig(Part):
    """Collection by several processes, on one machine or on a Ray cluster; see :mod:`recdqn.scale`.

    Attributes:
        actors: Ray actors that step the environments, ``num_envs / actors`` each, while the learner learns.
            With 0 the learner's process steps them itself, and Ray is not needed.
        address: ``"local"`` starts Ray on this machine; ``"auto"`` takes the cluster that it belongs to, and
            ``"host:port"`` names one. Actors run where processors are free, the learner where it is started.
        ladder: give each environment its own share of random actions, which stays the same, from 0.4 down to
            0.0007 (:cite:t:`horgan2018distributed`), with actors and without. They replace the schedule of
            ``policy.eps_start``; the metrics show their mean.
        pipeline: collections that the actors are ahead of the learner. The weights that collect are this many
            collections old; with more than 1, a slow collection of one actor does not hold up the others.
        start_seconds: time limit for actors to start, in seconds; a cluster may first have to add a machine.
    """

    actors: Annotated[Int, Field(ge=0, le=10_000)] = 0
    address: Text = "local"
    ladder: Bool = False
    pipeline: Annotated[Int, Field(ge=1, le=64)] = 1
    start_seconds: Annotated[Float, Field(ge=0.01, le=1_000_000)] = 120.0


@settings
class Config(Part):
    """All settings of a run.

    Numbers and arrays of NumPy are converted, lists become tuples, and a dictionary becomes a part. The
    defaults fit CartPole: with another environment ``policy.initial_value`` is 0, and ``train.solved_return``
    is out of reach.

    Attributes:
        name: the preset it was made from.
        seed: seed of all random number generators of a run.
        device: device of the networks and batches, for example ``"cpu"`` or ``"cuda"``.
        threads: PyTorch's threads while training; one is often faster than two for networks this small.
        env, policy, loss, replay, train, scale: the settings of each part.

    Raises:
        ConfigError: naming every setting that cannot be used, in one line.

    Example:
        >>> cfg = Config(seed=1, env={"num_envs": 8})
        >>> cfg.env.num_envs
        8
    """

    name: Text = "masked-cartpole"
    seed: Annotated[Int, Field(ge=0, le=2**32 - 1)] = 0
    device: Text = "cpu"
    threads: Annotated[Int, Field(ge=1, le=1_024)] = 1
    env: EnvConfig = field(default_factory=EnvConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)

    @classmethod
    def complete(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Add neutral values if the environment is not the default one."""
        if _id(values.get("env"), ENV_ID) == ENV_ID:
            return values
        return values | {part: neutral(part, values.get(part, {})) for part in NEUTRAL}

    def check_training(self) -> None:
        """Check what only training needs: without it, an environment and a policy can still be made.

        Raises:
            ConfigError: naming every setting that does not fit the others, in one line.
        """
        if broken := misfits(dotted(self)):
            raise ConfigError("; ".join(broken.values()))

    @staticmethod
    def preset(name: str, seed: int = 0) -> Config:
        """Return a preset with a seed.

        Raises:
            ConfigError: if there is no preset ``name``, or the seed is out of range.
        """
        if not isinstance(name, str) or name not in PRESETS:
            raise ConfigError(f"unknown preset {name!r}: {suggest(str(name), PRESETS)}")
        return Config(name=name, seed=seed, **PRESETS[name])

    def replace(self, /, **values: Any) -> Config:
        """Return a copy with other values; a dictionary changes settings of a part.

        With another ``env.id``, settings that belong to an environment are not copied. They get neutral
        values: the agent sees the whole observation (or pictures, if it did before), nothing is scaled,
        ``policy.initial_value`` is 0, and ``train.solved_return`` is out of reach.

        Example:
            >>> Config.preset("masked-cartpole").replace(seed=1, train={"updates": 4}).train.updates
            4
        """
        if _id(values.get("env"), self.env.id) != self.env.id:
            env = values["env"]
            if isinstance(env, dict) and self.env.observation == "pixels":
                env = {"observation": "pixels"} | env
            values |= {part: neutral(part, values.get(part, {})) for part in ("policy", "train")}
            values["env"] = neutral("env", env)
        for name, value in values.items():
            part = getattr(self, name, None)
            if isinstance(value, dict) and isinstance(part, Part):
                values[name] = vars(part) | value
        return Config(**(vars(self) | values))

    def to_dict(self) -> dict[str, Any]:
        """Return nested dictionaries of plain values, for JSON."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Config:
        """Rebuild a configuration from :meth:`to_dict`, also after JSON."""
        if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
            raise ConfigError(f"{show(values)} is no configuration: expected a dictionary of names")
        return Config(**values)


def _id(env: Any, default: str) -> Any:
    """Return the id of an environment's settings, complete or not."""
    name = env.get("id", default) if isinstance(env, dict) else getattr(env, "id", default)
    try:
        return name_of(name)
    except ValueError:  # it is refused later
        return name
