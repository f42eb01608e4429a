import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, SliceSampler, TensorDictReplayBuffer
from torchrl.envs.utils import ExplorationType, set_exploration_type

from recdqn import Config, add_primers, make_collector, make_env, make_policy, make_replay_buffer
from recdqn.errors import UserError
from recdqn.replay import FlatMemmapStorage, StepUniformSliceSampler, stored_bytes


def filled(cfg, tmp_path, collections):
    env = make_env(cfg.env)
    env.set_seed(0)
    policy = make_policy(cfg.policy, env)
    add_primers(env, policy)
    buffer = make_replay_buffer(cfg, tmp_path)
    collector = make_collector(cfg, env, policy, buffer)
    for _, handed_over in zip(range(collections), collector, strict=False):
        assert handed_over is None  # the collector writes into the buffer itself
    collector.shutdown()
    return buffer


@pytest.mark.parametrize("num_envs", [1, 2, 8])
def test_slices_stay_inside_episodes_and_in_order(tiny, tmp_path, num_envs):
    cfg = tiny.replace(env={"num_envs": num_envs})
    buffer = filled(cfg, tmp_path, 6)
    assert len(buffer) == 6 * cfg.train.frames_per_batch
    continued = 0
    for _ in range(20):
        batch = buffer.sample()
        start = batch["is_init"].squeeze(-1)
        assert start.sum() == cfg.replay.slices and start[0]
        inside = ~start[1:]
        episode, step = batch["collector", "traj_ids"], batch["step_count"].squeeze(-1)
        assert (episode[1:] == episode[:-1])[inside].all()
        assert (step[1:] == step[:-1] + 1)[inside].all()
        # the transition before leads to the one after, observation and recurrent state alike
        for key in ("observation", "recurrent_state_h", "recurrent_state_c"):
            torch.testing.assert_close(batch["next", key][:-1][inside], batch[key][1:][inside])
        continued += int(inside.sum())
    assert continued > 200


def test_every_stored_step_continues_the_one_before(tiny, tmp_path):
    """Nothing is lost or doubled between the collector and the buffer: 8 rows of time, resets where done."""
    buffer = filled(tiny, tmp_path, 8)
    data = buffer[:]
    if data.shape[0] != 8:  # the storage keeps time first
        data = data.transpose(0, 1)
    assert data.shape == (8, 64)
    done = data["next", "done"].squeeze(-1)[:, :-1]
    assert done.sum() > 5
    assert torch.equal(data["is_init"].squeeze(-1)[:, 1:], done)
    same = data["next", "observation"][:, :-1] == data["observation"][:, 1:]
    assert same[~done].all() and not same[done].any()
    assert (data["recurrent_state_h"][:, 1:][done] == 0).all()
    assert data["collector", "traj_ids"].unique().numel() == 8 + int(done.sum())


def test_collector_explores_whatever_the_caller_set(tiny, tmp_path):
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        buffer = filled(tiny.replace(policy={"eps_start": 1.0}), tmp_path, 4)
    data = buffer[:]
    greedy = data["action_value"].argmax(-1)
    share = (data["action"].argmax(-1) == greedy).float().mean()
    assert 0.35 < share < 0.65  # half of the random actions agree by chance: 256 coins


def test_data_lies_in_the_given_folder(tiny, tmp_path):
    filled(tiny, tmp_path, 1)
    assert list(tmp_path.rglob("*.memmap"))


def draws_per_step(sampler, lengths, slices, slice_len=5):
    """How often each step is drawn, relative to the mean over all steps; one tensor for each episode."""
    episode = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    flags = torch.zeros(len(episode), 1, dtype=torch.bool)
    step = torch.arange(len(episode))
    data = {"episode": episode, "step": step, ("next", "done"): flags, ("next", "truncated"): flags}
    storage = LazyTensorStorage(len(episode))
    buffer = TensorDictReplayBuffer(storage=storage, sampler=sampler, batch_size=slices * slice_len)
    buffer.extend(TensorDict(data, [len(episode)]))
    drawn = torch.bincount(buffer.sample()["step"], minlength=len(episode)).double()
    return (drawn / drawn.mean()).split(lengths)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=5), st.booleans())
def test_every_step_is_replayed_equally_often(lengths, whole):
    """Whatever the lengths, shorter than a slice or longer, at the ends and in the middle."""
    slices = 40_000
    sampler = StepUniformSliceSampler(slice_len=5, traj_key="episode", whole=whole)
    expected = slices * 4 / sum(lengths)  # draws of one step; about four, since slices are cut at the ends
    for episode in draws_per_step(sampler, lengths, slices):
        assert ((episode - 1).abs() < 6 / expected**0.5 + 0.02).all()
        # the mean over an episode is sharper; the steps of a slice come together, so their number counts less
        assert abs(episode.mean() - 1) < 6 * (5 / (expected * len(episode))) ** 0.5


@pytest.mark.parametrize("whole", [False, True])
def test_slices_that_hold_a_whole_episode(whole):
    """Of the 2 L - 1 places of an episode of L steps one holds all of it; with ``whole`` it is alone."""
    episode = torch.repeat_interleave(torch.arange(4), torch.tensor([4, 5, 6, 1]))
    flags = torch.zeros(len(episode), 1, dtype=torch.bool)
    data = {"episode": episode, ("next", "done"): flags, ("next", "truncated"): flags.clone()}
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(len(episode)),
        sampler=StepUniformSliceSampler(slice_len=5, traj_key="episode", whole=whole),
        batch_size=5 * 20_000,
    )
    buffer.extend(TensorDict(data, [len(episode)]))
    batch = buffer.sample()
    end = batch["next", "truncated"].flatten().nonzero().flatten()
    length, of = torch.diff(end, prepend=torch.tensor([-1])), batch["episode"][end]
    for number, steps in ((0, 4), (1, 5)):
        complete = (length[of == number] == steps).double().mean()
        assert complete == 1 if whole else abs(complete - 1 / (2 * steps - 1)) < 0.02
    assert length[of == 2].unique().tolist() == [1, 2, 3, 4, 5] and length[of == 3].unique().tolist() == [1]


@pytest.mark.parametrize(
    ("numbers", "done", "refused"),
    [
        ([0, 1] * 20, [], 0),
        ([0, 0, 0, 0, 1, 1, 0, 2, 2], [], 0),
        ([3, 3, 3, 0, 0, 0, 1, 1, 0, 0], [2, 9], 0),
        ([0, 0, 0, 0, 1, 1, 0, 2, 2], [3], None),  # the number is used again, after its episode has ended
        ([4] * 9, [], None),
    ],
)
def test_episodes_that_are_stored_step_by_step_in_turn_are_refused(numbers, done, refused):
    episode = torch.tensor(numbers)
    flags = torch.zeros(len(episode), 1, dtype=torch.bool)
    ends = flags.clone()
    ends[done] = True
    data = {"episode": episode, "step": torch.arange(len(episode)), ("next", "done"): ends}
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(100),
        sampler=StepUniformSliceSampler(slice_len=3, traj_key="episode"),
        batch_size=30,
    )
    buffer.extend(TensorDict(data | {("next", "truncated"): flags}, [len(episode)]))
    if refused is not None:
        with pytest.raises(
            UserError, match=f"^steps of episode {refused} are stored between steps of others"
        ):
            buffer.sample()
    else:
        batch = buffer.sample()
        inside = ~batch["next", "done"].flatten()[:-1]
        assert (batch["step"].diff()[inside] == 1).all() and (batch["episode"].diff()[inside] == 0).all()


def test_torchrl_draws_short_episodes_more_and_ends_less():
    """The reason for our sampler; when this fails, TorchRL has changed and ours may go."""
    sampler = SliceSampler(slice_len=5, strict_length=False, traj_key="episode")
    short, long = draws_per_step(sampler, [10, 200], 40_000)
    assert 18 < short.mean() / long.mean() < 22
    for end in (long[0], long[-1]):
        assert (
            3.5 < long[20:-20].mean() / end < 7
        )  # a slice of 5 covers the end from 1 place, the middle from 5


# --- images stored once ----------------------------------------------------------------------------------


def counting(cfg, tmp_path, shift, envs=2, episode=(7, 11)):
    """A buffer of pictures that say which env and which step of it they show, and its filler.

    The episodes of each env have the same length; an episode's last picture, the observation after its last
    step, is shown by no step.
    """
    cfg = cfg.replace(
        env={"observation": "pixels", "num_envs": envs, "image_size": 36}, replay={"shift": shift}
    )
    buffer = make_replay_buffer(cfg, tmp_path)
    clock = torch.zeros(envs, dtype=torch.long)  # pictures shown by each env
    step, number = torch.zeros(envs, dtype=torch.long), torch.arange(envs)
    length = torch.tensor(episode)

    def picture():
        shown = torch.zeros(envs, 1, 36, 36, dtype=torch.uint8)
        shown[:, 0, 10] = torch.arange(1, envs + 1)[:, None].to(torch.uint8)
        shown[:, 0, 20] = clock[:, None].to(torch.uint8)
        shown[:, 0, 20, 20] += 1  # a mark to find the columns by
        return shown

    def extend(steps):
        nonlocal step, number, clock
        rows = []
        for _ in range(steps):
            now = {"pixels": picture(), "is_init": (step == 0)[:, None], ("collector", "traj_ids"): number}
            clock, step = clock + 1, step + 1
            done = step == length
            now |= {("next", "pixels"): picture(), ("next", "done"): done[:, None]}
            now |= {("next", "truncated"): done[:, None], ("next", "terminated"): torch.zeros(envs, 1) > 0}
            clock, step = clock + done, torch.where(done, 0, step)
            number = torch.where(done, number + envs, number)
            rows.append(TensorDict(now, [envs]))
        buffer.extend(torch.stack(rows, 1))

    return buffer, extend


def test_the_next_image_is_restored(tiny, tmp_path):
    """While the buffer fills, after it has gone round, at the ends of episodes and at the newest step."""
    tiny = tiny.replace(replay={"capacity": 60, "slices": 8, "slice_len": 5})
    buffer, extend = counting(tiny, tmp_path, shift=0)
    ends = 0
    for _ in range(25):
        extend(4)
        assert ("next", "pixels") not in buffer.storage[:].keys(True)
        for _ in range(4):
            batch = buffer.sample()
            now, after = batch["pixels"][:, 0], batch["next", "pixels"][:, 0]
            assert torch.equal(after[:, 10], now[:, 10])  # the env
            assert torch.equal(after[:, 20], now[:, 20] + 1)  # the step
            ends += int(batch["next", "done"].sum())
    assert len(buffer) == 60 and ends > 200


def test_a_slice_is_shifted_as_a_whole(tiny, tmp_path):
    buffer, extend = counting(
        tiny.replace(replay={"capacity": 60, "slices": 50, "slice_len": 5}), tmp_path, 3
    )
    extend(30)
    torch.manual_seed(0)
    batch = buffer.sample()
    seen, moves = torch.cat([batch["pixels"], batch["next", "pixels"]], 1), set()
    for part in seen.split(batch["is_init"].flatten().nonzero().flatten().diff(
            append=torch.tensor([len(batch)])).tolist()):  # fmt: skip
        rows = part[:, :, :, 0].nonzero()[:, 2].unique()  # the env's row, and the clock's
        assert rows.diff().tolist() == [10]
        clock = part[:, :, int(rows[1])]
        columns = (clock != clock[..., :1]).nonzero()[:, 2].unique()
        assert len(columns) == 1
        moves.add((int(rows[0]) - 10, int(columns[0]) - 20))
        assert torch.equal(clock[:, 1, 0], clock[:, 0, 0] + 1)
    assert {down for down, _ in moves} == {across for _, across in moves} == set(range(-3, 4))


def test_images_of_overwritten_episodes_are_removed(tiny, tmp_path):
    buffer, extend = counting(
        tiny.replace(replay={"capacity": 60, "slices": 8, "slice_len": 5}), tmp_path, shift=0, episode=(1, 1)
    )
    for _ in range(300):
        extend(4)
    kept = buffer.state_dict()["last"].values()
    assert len(kept) <= 2 * 60 + 1_000 + 8
    assert all(image.untyped_storage().nbytes() == image.nbytes for image in kept)
    assert torch.equal(buffer.sample()["next", "pixels"][:, 0, 20, 0] % 2, torch.ones(8))


# --- episodes in the ring -------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_slices_follow_the_episodes_in_a_ring_of_any_size(data):
    """One env or several, episodes of any length, samples between any writes: all steps, in order."""
    envs, rows = data.draw(st.integers(1, 3)), data.draw(st.integers(3, 12))
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(envs * rows, ndim=2 if envs > 1 else 1),
        sampler=StepUniformSliceSampler(slice_len=3, traj_key="episode"),
        batch_size=3 * 1_000,
        dim_extend=1 if envs > 1 else 0,
    )
    number, clock = torch.arange(envs), 0
    written: list[tuple[int, int]] = []  # the episode and the time of every step
    for _ in range(data.draw(st.integers(1, 8))):
        chunk = []
        for _ in range(
            data.draw(st.integers(2, rows))
        ):  # TorchRL 0.14.1 cannot store one step of several envs
            new = torch.tensor(data.draw(st.lists(st.booleans(), min_size=envs, max_size=envs)))
            number = torch.where(new, int(number.max()) + 1 + torch.arange(envs), number)
            chunk.append(number)
            written += [(episode, clock + len(chunk) - 1) for episode in number.tolist()]
        flags = torch.zeros(envs, len(chunk), 1, dtype=torch.bool)
        time = torch.arange(clock, clock + len(chunk)).expand(envs, -1)
        clock += len(chunk)
        td = {"episode": torch.stack(chunk, 1), "time": time, ("next", "done"): flags}
        td = TensorDict(td | {("next", "truncated"): flags.clone()}, [envs, len(chunk)])
        buffer.extend(td if envs > 1 else td[0])
        if data.draw(st.booleans()):
            continue
        batch = buffer.sample()
        drawn = set(zip(batch["episode"].tolist(), batch["time"].tolist(), strict=True))
        assert drawn == set(written[-envs * rows :])
        inside = ~batch["next", "done"][:-1, 0]
        assert (batch["episode"].diff() == 0)[inside].all() and (batch["time"].diff() == 1)[inside].all()
        assert int(batch["next", "done"].sum()) == 1_000


def test_a_generator_repeats_the_batches_and_empty_forgets_the_episodes():
    """The two private names of TorchRL's samplers that ours depends on."""
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(50),
        sampler=StepUniformSliceSampler(slice_len=3, traj_key="episode"),
        batch_size=30,
    )
    flags = torch.zeros(50, 1, dtype=torch.bool)
    data = {"episode": torch.arange(50) // 20, ("next", "done"): flags, ("next", "truncated"): flags}
    batches = []
    for _ in range(2):
        buffer.empty()
        buffer.extend(TensorDict(data, [50]))
        buffer.set_rng(torch.Generator().manual_seed(0))
        torch.rand(3)  # the global generator does not matter
        batches.append(buffer.sample())
    assert (batches[0] == batches[1]).all()
    buffer.empty()
    buffer.extend(TensorDict(data, [50])[:5])
    assert (buffer.sample()["episode"] == 0).all() and buffer.sample()["index"].max() < 5


@pytest.mark.parametrize("observation", ["masked", "pixels", "whole"])
def test_the_size_of_a_full_buffer_is_known_before(observation, tmp_path):
    """Against the files that TorchRL makes."""
    sizes = {"loc": (0.0,), "scale": (1.0,)}
    cfg = Config.preset("masked-cartpole").replace(
        env={"num_envs": 4, "observation": observation, **sizes}, replay={"capacity": 400}
    )
    env = make_env(cfg.env)
    policy = make_policy(cfg.policy, env)
    add_primers(env, policy)
    buffer = make_replay_buffer(cfg, tmp_path)
    collector = make_collector(cfg, env, policy, buffer)
    next(iter(collector))
    made = sum(path.stat().st_size for path in tmp_path.rglob("*.memmap"))
    assert made == stored_bytes(cfg, env)
    collector.shutdown()


@pytest.mark.parametrize("rows", [30, 100])
def test_loading_replaces_what_was_stored(rows, tmp_path):
    """A buffer that held more, and whose ring stood elsewhere, then samples as the saved one does."""
    cfg = Config.preset("masked-cartpole").replace(
        env={"num_envs": 2}, replay={"capacity": 160}, train={"frames_per_batch": 20}
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    saved = filled(cfg, tmp_path / "a", rows // 10)
    other = filled(cfg, tmp_path / "b", 9)
    other.sample()
    other.load_state_dict(saved.state_dict())
    assert len(other) == len(saved) == min(2 * rows, 160)
    for seed in range(5):
        torch.manual_seed(seed)
        batch = saved.sample()
        torch.manual_seed(seed)
        assert (other.sample() == batch).all()


# --- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [1, 2])
def test_the_storage_reads_what_torchrls_reads(ndim, tmp_path):
    """Before it is full, while it is overwritten, and after it was emptied; by any index."""
    shape = [12] if ndim == 1 else [12, 5]
    storages = [
        kind(math.prod(shape), ndim=ndim, scratch_dir=tmp_path / kind.__name__)
        for kind in (FlatMemmapStorage, LazyMemmapStorage)
    ]
    for rows in (torch.arange(7), torch.arange(4, 12), torch.arange(3)):
        size = [len(rows), *shape[1:]]
        deep = {"number": torch.randint(99, [*size, 1]), "deeper": {"vector": torch.rand(*size, 3)}}
        steps = TensorDict({"flag": torch.rand(size) > 0.5, "deep": deep}, size)
        if len(rows) == 3:
            for storage in storages:
                storage._empty()
        for storage in storages:
            storage.set(rows, steps)
        stored = len(storages[0]) // math.prod(shape[1:])
        lists = [torch.randint(stored, (40,)), *(torch.randint(n, (40,)) for n in shape[1:])]
        index = tuple(lists) if ndim == 2 else lists[0]
        backwards = tuple(part - part.max() - 1 for part in lists) if ndim == 2 else -1 - lists[0]
        for one in (index, backwards, slice(1, 3), 0, torch.tensor(1), lists[0]):
            ours, theirs = (storage.get(one) for storage in storages)
            assert ours.shape == theirs.shape and (ours == theirs).all()
