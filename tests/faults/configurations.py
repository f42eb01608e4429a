"""Generated configurations, from the JSON schemas of the settings: a new setting needs no change here."""

import math

from hypothesis import reject
from hypothesis import strategies as st

from recdqn.config import Config
from recdqn.errors import ConfigError
from recdqn.fields import parts, schemas

FIELDS = {  # JSON schemas by dotted name
    f"{prefix}{name}": schema
    for prefix, cls in [("", Config), *((f"{name}.", cls) for name, cls in parts(Config).items())]
    for name, schema in schemas(cls).items()
    if name not in parts(cls)
}
PRINTABLE = st.characters(exclude_categories=("C", "Zl", "Zp"))


def values(schema, entries=4):
    """Values in the range of a setting, many of them at its ends."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema["type"] == "array":
        return st.lists(values(schema["items"]), min_size=1, max_size=entries).map(tuple)
    if schema["type"] == "string":
        return st.text(PRINTABLE, min_size=1, max_size=schema["maxLength"])
    if schema["type"] == "boolean":
        return st.booleans()
    low, high, step = schema["minimum"], schema["maximum"], schema.get("multipleOf", 1)
    if schema["type"] == "number":
        return st.sampled_from([low, high]) | st.floats(low, high)
    first, last = math.ceil(low / step), high // step
    ends = [first, min(first + 1, last), max(first, last - 1), last]
    return (st.sampled_from(ends) | st.integers(first, last)).map(step.__mul__)


def fit_layers(settings):
    """Give the convolutions as many kernels and strides as channels, and let exploration fall."""
    layers = len(settings["policy.channels"])
    for name in ("policy.kernels", "policy.strides"):
        settings[name] = (settings[name] * layers)[:layers]
    start, end = settings.get("policy.eps_start", 1.0), settings.get("policy.eps_end", 0.0)
    return settings | {"policy.eps_start": max(start, end), "policy.eps_end": min(start, end)}


def nested(settings):
    """Turn settings by dotted name into dictionaries of parts."""
    parts = {}
    for name, value in settings.items():
        part, dot, field = name.partition(".")
        if dot:
            parts.setdefault(part, {})[field] = value
        else:
            parts[name] = value
    return parts


@st.composite
def configurations(draw):
    """Configurations of which every setting may differ from its default."""
    layers = ("policy.channels", "policy.kernels", "policy.strides")
    strategies = {name: values(schema) for name, schema in FIELDS.items()}
    needed = {name: strategies.pop(name) for name in layers}
    settings = fit_layers(draw(st.fixed_dictionaries(needed, optional=strategies)))
    try:
        return Config(**nested(settings))
    except ConfigError:  # a picture smaller than its convolutions, or workers for one environment
        reject()
