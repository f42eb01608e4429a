"""What the reference pages say of settings and of how classes are made."""

import inspect
import re

import pytest
from settings import limits, other_presets, own_signature, presets_table, with_limits
from sphinx.ext.napoleon import GoogleDocstring

from recdqn import RecurrentDQNLoss
from recdqn.config import Config, EnvConfig, PolicyConfig, ReplayConfig, TrainConfig
from recdqn.errors import ConfigError
from recdqn.fields import parts
from recdqn.presets import PRESETS
from recdqn.replay import SliceReplayBuffer


def test_defaults_and_ranges_in_words():
    assert limits(EnvConfig, "num_envs") == "Default ``32``; a whole number from 1 to 10,000."
    assert limits(EnvConfig, "workers") == "Default ``False``; True or False."
    assert limits(PolicyConfig, "cell") == "Default ``'lstm'``; one of 'lstm', 'gru', 'none'."
    assert limits(ReplayConfig, "capacity").startswith("Default ``16,000``; a whole number from 1 to")
    assert limits(Config, "env") == ""


@pytest.mark.parametrize("name", ["updates", "average", "eval_every"])
def test_the_words_are_what_is_checked(name):
    low, high = re.search(r"from (\S+) to ([\d,.e+]+)\.", limits(TrainConfig, name)).groups()
    low, high = (float(text.replace(",", "")) for text in (low, high))
    kind = int if isinstance(getattr(TrainConfig(), name), int) else float
    assert getattr(TrainConfig(**{name: kind(low)}), name) == low
    assert getattr(TrainConfig(**{name: kind(high)}), name) == high
    for outside in (low - 1, high + 1):
        with pytest.raises(ConfigError):
            TrainConfig(**{name: kind(outside)})


@pytest.mark.parametrize("part", [Config, *parts(Config).values()])
def test_every_field_has_an_entry_and_its_limits(part):
    docstring = inspect.getdoc(part)
    text = "\n".join(with_limits(part, GoogleDocstring(docstring, what="class", obj=part).lines()))
    entries = re.split(r"(?m)^\.\. attribute:: ", text)[1:]
    named = [name for entry in entries for name in re.match(r"\w+(?:\n {15}\w+)*", entry)[0].split()]
    assert sorted(named) == sorted(part.__dataclass_fields__)
    assert ":type:" not in text
    for entry in entries:
        assert "Default ``" in entry or part is Config
    assert text.startswith(docstring.splitlines()[0])


def test_a_class_shows_its_own_arguments():
    def shown(part, found="(*args, **kwargs)"):
        return own_signature(None, "class", "", part, None, found, None)

    assert shown(SliceReplayBuffer) == ("", None)
    assert shown(EnvConfig, "(*, id=...)") == ("", None)
    ours = shown(RecurrentDQNLoss)[0]
    assert ours.startswith("(value_network, ") and "burn_in=0" in ours and "self" not in ours
    assert shown(RecurrentDQNLoss, "(a, b)") is None
    assert own_signature(None, "function", "", limits, None, "(*args)", None) is None


def test_the_table_of_presets():
    head, _, *rows = presets_table()
    assert head == "| setting | masked-cartpole | pixel-cartpole |"
    table = {row.split("`")[1]: row for row in rows}
    assert table["train.eval_every"] == "| `train.eval_every` | **25** | **50** |"
    assert table["loss.gamma"] == "| `loss.gamma` | **0.995** | **0.99** |"
    assert table["env.observation"] == "| `env.observation` | **`'masked'`** | **`'pixels'`** |"
    bold = ["**" in row for row in rows]
    assert bold == sorted(bold, reverse=True)
    assert sum(bold) == sum(map(len, PRESETS["pixel-cartpole"].values()))
    assert len(rows) == len(table) > 40
    _, _, *others = other_presets()
    assert len(others) == len(PRESETS) - 2
    assert others[0] == (
        "| `flickering-cartpole` | `env.id` `'recdqn/FlickeringCartPole-v0'`, `env.previous` `True`, "
        "`replay.capacity` 50,000, `train.total_frames` 200,000 |"
    )
