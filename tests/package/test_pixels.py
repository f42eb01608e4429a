"""The pictures of environments, fast or plain, against their own frames, shrunk by hand."""

import functools

import gymnasium as gym
import numpy as np
import pygame
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from recdqn import Config, make_env
from recdqn.envs import PAINTERS, RenderedPixels, ScreenReader, prepare_display, small_grey
from recdqn.errors import UserError

GREY = np.array([0.2989, 0.587, 0.114])
ROUNDED = 1.5  # levels of 255: the pictures are shrunk on whole numbers, and by hand on real ones


@pytest.fixture(autouse=True)
def display():
    prepare_display()


@functools.cache
def shrink(length, size):
    """Matrix of a triangle filter that is as wide as the reduction: rows are pixels of the small picture."""
    factor = length / size
    centres = (np.arange(size)[:, None] + 0.5) * factor
    weights = np.clip(1 - np.abs(np.arange(length)[None] + 0.5 - centres) / factor, 0, None)
    return weights / weights.sum(1, keepdims=True)


def by_hand(env, size):
    """The environment's own frame, made grey and small in floating point: [size, size]."""
    frame = env.render()
    height, width, _ = frame.shape
    return shrink(height, size) @ (frame @ GREY) @ shrink(width, size).T


def differences(env, steps, size=84):
    """Step at random, and compare each picture with the frame: the largest difference in one place."""
    pixels, found = RenderedPixels(env, size), []
    picture = pixels.reset(seed=0)[0]["pixels"]
    pixels.action_space.seed(0)
    for _ in range(steps):
        assert picture.shape == (1, size, size) and picture.dtype == np.uint8
        found.append(np.abs(picture[0] - by_hand(pixels, size)).max())
        observation, _, terminated, truncated, _ = pixels.step(pixels.action_space.sample())
        picture = (pixels.reset()[0] if terminated or truncated else observation)["pixels"]
    pixels.close()
    return np.array(found)


@pytest.mark.parametrize("size", [36, 84, 400])
def test_cartpole_is_drawn_as_in_its_frame_wherever_it_is(size):
    """Upright and fallen, and beyond both ends of the track."""
    pixels = RenderedPixels(gym.make("CartPole-v1", render_mode="rgb_array"), size)
    pixels.reset(seed=0)
    rng = np.random.default_rng(0)
    for state in [np.zeros(4), *rng.uniform([-2.9, 0, -0.5, 0], [2.9, 0, 0.5, 0], size=(80, 4))]:
        pixels.unwrapped.state = state
        picture = pixels.observe()["pixels"][0]
        assert np.abs(picture - by_hand(pixels, size)).max() < ROUNDED, state
        assert picture.min() < picture.max()
    pixels.close()


def test_a_picture_may_be_larger_than_the_frame():
    pixels = RenderedPixels(gym.make("CartPole-v1", render_mode="rgb_array"), 700)
    assert pixels.reset(seed=0)[0]["pixels"].shape == (1, 700, 700)  # any warning is an error
    pixels.close()


@pytest.mark.parametrize("name", ["MountainCar-v0", "Acrobot-v1", "Pendulum-v1"])
def test_pictures_of_other_environments(name):
    assert differences(gym.make(name, render_mode="rgb_array"), 30, size=60).max() < ROUNDED


@pytest.mark.parametrize(
    ("name", "values", "frames"),
    [
        ("CartPole-v1", {}, 3),  # the comparisons: pictures 1, 4 and 16
        ("CartPole-v1", {"length": 0.6}, 40),
        ("MountainCar-v0", {}, 40 + 3),
        ("Acrobot-v1", {}, 40 + 3),
        ("Pendulum-v1", {}, 40 + 3),
    ],
)
def test_how_often_a_frame_is_drawn(name, values, frames, monkeypatch):
    """For 40 pictures."""
    pixels = RenderedPixels(gym.make(name, render_mode="rgb_array"), 84)
    for attribute, value in values.items():
        setattr(pixels.unwrapped, attribute, value)
    pixels.reset(seed=0)
    size, drawn, flip = pixels.render().shape[1::-1], [], pygame.transform.flip

    def count(surface, *args):
        drawn.append(surface.get_size())
        return flip(surface, *args)

    monkeypatch.setattr(pygame.transform, "flip", count)
    for _ in range(40):
        pixels.observe()
    assert drawn.count(size) == frames
    pixels.close()


class Scored(CartPoleEnv):
    """Draws a second time on the screen that it has drawn."""

    def render(self):
        frame = super().render()
        pygame.draw.circle(self.screen, (255, 0, 0), (300, 60), 20)
        return (
            np.transpose(np.array(pygame.surfarray.pixels3d(self.screen)), (1, 0, 2)) if self.late else frame
        )

    late = True


class LaterScored(Scored):
    """Does so from the 20th step of an episode on."""

    steps = 0
    late = property(lambda self: self.steps >= 20)

    def reset(self, **kwargs):
        self.steps = 0
        return super().reset(**kwargs)

    def step(self, action):
        self.steps += 1
        self.state = self.state * 0.5  # the pole stays up
        return super().step(action)


class Marked(LaterScored):
    """Changes the array that it returns, outside of a small picture, from the 20th step on."""

    def render(self):
        frame = CartPoleEnv.render(self)
        if self.late:
            frame[200:210, 300:310] = 255, 0, 0
        return frame


class Turned(CartPoleEnv):
    """Returns its frame upside down, an array that has the same size and the same sum."""

    def render(self):
        return super().render()[::-1]


class Deep(CartPoleEnv):
    """Draws on a screen of 24 bits."""

    def render(self):
        super().render()
        screen = pygame.Surface((600, 400), depth=24)
        screen.blit(self.screen, (0, 0))
        return np.transpose(np.array(pygame.surfarray.pixels3d(screen)), (1, 0, 2))


class Unread(CartPoleEnv):
    """Reads its screen in another way."""

    def render(self):
        super().render()
        return pygame.surfarray.array3d(self.screen).swapaxes(0, 1)


class Dyed(CartPoleEnv):
    """Draws on its array before it copies it."""

    def render(self):
        super().render()
        array = pygame.surfarray.pixels3d(self.screen)
        array[:100] //= 2
        return np.transpose(np.array(array), (1, 0, 2))


class NoPygame(CartPoleEnv):
    def render(self):
        return np.full((400, 600, 3), int(100 + 10 * self.state[0]), dtype=np.uint8)


class Stamp(gym.Wrapper):
    """Draws on the frame that another environment returns."""

    def render(self):
        frame = self.env.render()
        frame[:30, 200:] = 0, 0, 255
        return frame


def of(kind, **values):
    """An environment of this class, with other values of its attributes."""
    env = kind(render_mode="rgb_array")
    for name, value in values.items():
        setattr(env, name, value)
    return env


class Padded(CartPoleEnv):
    """Has a longer state, and draws as CartPole does."""

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        self.state = np.append(self.state, 9.0)
        return observation, info

    def step(self, action):
        self.state = self.state[:4]
        outcome = super().step(action)
        self.state = np.append(self.state, 9.0)
        return outcome


KINDS = (Scored, LaterScored, Marked, Turned, Deep, Unread, Dyed, NoPygame)


@pytest.mark.parametrize(
    "make",
    [
        *[functools.partial(of, kind) for kind in (*KINDS, Padded)],
        lambda: Stamp(of(CartPoleEnv)),
        lambda: gym.wrappers.TimeLimit(Stamp(gym.make("CartPole-v1", render_mode="rgb_array")), 9),
        lambda: of(CartPoleEnv, length=1.0),
        lambda: of(CartPoleEnv, x_threshold=1.2),
        lambda: of(CartPoleEnv, screen_width=300, screen_height=500),
    ],
)
def test_no_environment_loses_what_it_draws(make):
    """Each picture is the environment's own frame, and nothing is to warn of: any warning is an error."""
    assert differences(make(), 45).max() < ROUNDED


@pytest.mark.parametrize("kind", KINDS)
def test_a_screen_counts_only_where_it_is_all_that_is_drawn(kind, monkeypatch):
    """The same environments, if they opt in where they should not."""
    monkeypatch.setitem(PAINTERS, kind.render, ScreenReader)
    assert differences(of(kind), 45).max() < ROUNDED


class Trail(CartPoleEnv):
    """Draws every picture over the faded one before it."""

    last = np.zeros((400, 600, 3), np.uint8)

    def render(self):
        self.last = np.maximum(self.last // 2, 255 - super().render())
        return 255 - self.last


def test_an_environment_that_remembers_its_frames_draws_each_once():
    pixels, twin = RenderedPixels(of(Trail), 84), of(Trail)
    twin.reset(seed=0)
    picture = pixels.reset(seed=0)[0]["pixels"]
    for time in range(20):
        np.testing.assert_array_equal(picture, small_grey(twin.render(), 84))
        twin.step(time % 2)
        picture = pixels.step(time % 2)[0]["pixels"]


def test_an_attribute_may_change_in_an_episode():
    env = of(CartPoleEnv)
    pixels = RenderedPixels(env, 84)
    for env.length in (0.5, 1.0, 0.3, 0.5):
        pixels.reset(seed=0)
        pixels.step(0)
        assert np.abs(pixels.step(1)[0]["pixels"][0] - by_hand(env, 84)).max() < ROUNDED
    pixels.close()


def test_a_method_may_be_replaced_on_the_environment():
    env = of(CartPoleEnv)
    own, pixels = env.render, RenderedPixels(env, 84)
    assert pixels.reset(seed=0)[0]["pixels"].min() < 200
    env.render = lambda: np.full_like(own(), 200)
    assert (RenderedPixels(env, 84).reset(seed=0)[0]["pixels"] == 200).all()
    env.close()


class Wall(gym.Env):
    """Draws a wall that darkens with every step, and one dot from its 20th picture on."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    render_mode = "rgb_array"

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def render(self):
        frame = np.full((84, 84, 3), 200 - self.time, np.uint8)
        if self.time >= 20:
            frame[3, 4] -= 2
        return frame


@pytest.mark.parametrize(("dot", "slower"), [(True, False), (False, True)])
def test_a_painter_is_given_up_where_it_is_wrong(monkeypatch, recwarn, dot, slower):
    """A painter that leaves out one dot, two levels darker, is found at the next comparison."""
    painted = []

    def painter(env, size):
        def paint():
            painted.append(env.time)
            picture = np.full((1, size, size), 200 - env.time, np.uint8)
            if dot and env.time >= 20:
                picture[0, 3, 4] -= 2
            return picture

        return paint

    monkeypatch.setitem(PAINTERS, Wall.render, painter)
    pixels = RenderedPixels(Wall(), 84)
    pixels.reset()
    for time in range(1, 81):
        picture = pixels.step(0)[0]["pixels"]
        assert picture[0, 0, 0] == 200 - time
        if time >= 64:
            assert picture[0, 3, 4] == 198 - time
    messages = [str(warning.message) for warning in recwarn]
    assert (max(painted) == 64) == slower
    assert len(messages) == slower
    if slower:
        assert "is drawn in a slower way from picture 64 on: its painter is 2 of 255 levels" in messages[0]


def test_a_painter_is_not_for_classes_that_draw_themselves(monkeypatch):
    """It stands for one method."""
    monkeypatch.setitem(PAINTERS, Wall.render, lambda env, size: lambda: np.zeros((1, size, size), np.uint8))

    class Grey(Wall):
        def render(self):
            return np.full((9, 9, 3), 100, np.uint8)

    assert (RenderedPixels(Grey(), 20).reset()[0]["pixels"] == 100).all()


@pytest.mark.parametrize(
    "frame", [np.full((40, 60, 3), 0.5), np.full((40, 60, 1), 200, np.uint8), np.full((40, 60, 3), 200)]
)
def test_frames_that_are_no_pictures_are_refused(frame, monkeypatch):
    monkeypatch.setattr(Wall, "render", lambda self: frame)
    with pytest.raises(UserError, match=r"draws frames of shape .* expected \[height, width, 3\] of bytes"):
        RenderedPixels(Wall(), 84).reset()


def test_pictures_leave_pygame_as_it_was():
    before = pygame.surfarray.pixels3d
    env = RenderedPixels(gym.make("MountainCar-v0", render_mode="rgb_array"), 84)
    env.reset(seed=0)
    assert pygame.surfarray.pixels3d is before
    env.close()


def test_a_film_gets_whole_frames():
    env = make_env(Config.preset("pixel-cartpole").replace(env={"num_envs": 1}).env)
    env.rollout(3)
    assert env.render().shape == (400, 600, 3)
    env.close()
