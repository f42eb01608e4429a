"""Export a trained agent as one file, for programs without TorchRL or Python: ONNX, or PyTorch's ``.pt2``."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn

from recdqn.agent import Agent
from recdqn.config import EnvConfig
from recdqn.envs import declared_spaces, open_env
from recdqn.envs.actions import sizes
from recdqn.envs.entries import KEYS
from recdqn.envs.make import reader_of
from recdqn.errors import UserError, installed
from recdqn.policy.encoders import PATCH, PixelEncoder
from recdqn.policy.modules import recurrent_cell
from recdqn.policy.plain import chain, step
from recdqn.policy.previous import WithPrevious
from recdqn.run.folder import Run, load_checkpoint, load_manifest
from recdqn.run.provenance import manifest

FORMATS = (".onnx", ".pt2")
OPSET = 20  # of ONNX
METADATA = "recdqn"  # its key in an ONNX file, and its file name in a .pt2 file
TOLERANCE = 1e-4  # relative to 1 + |Q|: largest difference between a file and its agent
CHECKED = 8  # steps

Call = Callable[[dict[str, np.ndarray]], list[np.ndarray]]


def export_agent(run: str | Path | Run, out: str | Path) -> dict[str, Any]:
    """Write an agent as a file that computes one step of a batch.

    The inputs are, in order:

    - ``observation``: ``[batch, n]``, float32, as the environment returns it, or as a vector of its entries
      (the file hides and scales them itself), or ``[batch, stack, n]``; or the small grey pictures of
      ``recdqn.envs``, ``[batch, pictures, size, size]``, uint8;
    - ``is_init``: ``[batch, 1]``, bool: whether an episode begins. The states are then taken as zeros;
    - ``h`` and, for an LSTM, ``c``: ``[batch, layers, hidden]``, float32. A policy without a recurrent layer
      has neither;
    - with ``env.previous`` also ``previous_action`` ``[batch, actions]``, one-hot, and ``reward``
      ``[batch, 1]``.

    The outputs are ``action_value`` ``[batch, actions]``, ``action`` ``[batch]``, int64, as the environment's
    ``step`` takes it, and the states for the next call, ``h_next``, ``c_next`` and so on. Everything is
    computed in float32. The file is run for a few steps after it is written, and compared with the agent.

    A JSON text describes the inputs, the observations and what wrappers had learned of them, the actions, the
    settings and the versions: the entry
    ``"recdqn"`` in the metadata of an ONNX file, or the extra file of that name in a ``.pt2`` file.

    Args:
        run: a run, or its folder.
        out: the file; ``.onnx`` needs ``pip install 'recdqn[export]'``, ``.pt2`` only PyTorch.

    Returns:
        That description.

    Raises:
        UserError: if the file cannot be written, its name has another ending, a package is missing, the
            policy is not a chain that :class:`recdqn.agent.Agent` can run, or the file computes other values.
    """
    out = Path(out).absolute()  # an environment may change the working directory
    if out.suffix not in FORMATS:
        raise UserError(f"cannot export to {out.name!r}: the name must end in .onnx or .pt2")
    needed = ("onnx", "onnxscript", "onnxruntime") if out.suffix == ".onnx" else ()
    if missing := [name for name in needed if not installed(name)]:
        raise UserError(
            f"exporting to ONNX needs the package {missing[0]}: pip install 'recdqn[export]', "
            "or choose a name that ends in .pt2"
        )
    made = {} if isinstance(run, Run) else load_manifest(run)
    saved = run if isinstance(run, Run) else load_checkpoint(run)
    policy = copy.deepcopy(saved.policy).cpu().requires_grad_(False).eval()
    for module in policy.modules():
        if isinstance(module, PixelEncoder):
            module.dtype = torch.float32  # instead of bfloat16, where this processor has it
    network = Step(policy, saved.cfg.env)
    description = {
        "inputs": network.inputs,
        "outputs": network.outputs,
        **_spaces(saved.cfg.env),
        "settings": saved.cfg.to_dict(),
        "statistics": saved.statistics,
        "exported": manifest(),
        "trained": made,
    }
    text = json.dumps(description)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporters say about their own code
        content = (_onnx if out.suffix == ".onnx" else _pt2)(network, text)
    try:
        out.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; choose another place") from None
    _check(opened(out), Agent(policy, saved.cfg.env), network)
    return description


class Step(nn.Module):
    """One step of a policy on plain tensors, with the inputs and outputs of :func:`export_agent`.

    Args:
        policy: from :func:`recdqn.policy.make_policy`, or a chain of modules of the same kinds.
        cfg: the environment it was trained in.

    Attributes:
        inputs, outputs: name, type and shape of each; the batch is not part of a shape.
    """

    visible: Tensor
    scale: Tensor
    loc: Tensor

    def __init__(self, policy: TensorDictModuleBase, cfg: EnvConfig) -> None:
        super().__init__()
        modules = chain(policy)
        keys = [key for key in modules[0].in_keys if key in KEYS]
        if len(keys) > 1 or keys == ["codes"] or cfg.mask != "none":
            raise UserError(
                f"an agent that reads {' and '.join(keys)}{' and a mask' * (cfg.mask != 'none')} cannot be "
                "exported: expected numbers or pictures alone"
            )
        self.pixels = keys == ["pixels"]
        space, self.first_action, count = _seen(cfg)
        shape = tuple(space.shape or ())
        self.previous = isinstance(getattr(modules[0], "module", None), WithPrevious)
        self.reward_scale = cfg.reward_scale
        self.chain = nn.ModuleList([_exportable(module) for module in modules])
        visible = cfg.visible if cfg.observation == "masked" else range(shape[-1])
        for name, values in (("visible", list(visible)), ("scale", cfg.scale), ("loc", cfg.loc)):
            self.register_buffer(name, torch.tensor(values))

        stack = () if cfg.stack == 1 else (cfg.stack,)
        seen = ("uint8", list(shape)) if self.pixels else ("float32", [*stack, *shape])
        cells = [cell for module in modules if (cell := recurrent_cell(module)) is not None]
        states = {
            name + (f"_{k}" if len(cells) > 1 else ""): [cell.num_layers, cell.hidden_size]
            for k, cell in enumerate(cells)
            for name in ("hc" if isinstance(cell, nn.LSTM) else "h")
        }
        states |= {"previous_action": [count]} if self.previous else {}
        named = [("observation", *seen), ("is_init", "bool", [1])]
        named += [(name, "float32", shape) for name, shape in states.items()]
        named += [("reward", "float32", [1])] if self.previous else []
        self.inputs: list[dict[str, Any]] = [
            {"name": name, "dtype": dtype, "shape": shape} for name, dtype, shape in named
        ]
        self.outputs: list[dict[str, Any]] = [
            {"name": "action_value", "dtype": "float32", "shape": [count]},
            {"name": "action", "dtype": "int64", "shape": []},
            *({"name": f"{name}_next", "dtype": "float32", "shape": shape} for name, shape in states.items()),
        ]

    def forward(self, observation: Tensor, is_init: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Return Q-values, actions and the states after the step."""
        keep = 1.0 - is_init.float()  # [batch, 1]
        if self.pixels:
            seen = [observation]
        else:
            chosen = observation.index_select(-1, self.visible)
            seen = [(chosen * self.scale + self.loc).flatten(1)]
        states = list(state)
        if self.previous:
            reward, action = states.pop() * self.reward_scale, states.pop() * keep
            seen.append(torch.cat([action, reward * action.sum(-1, keepdim=True)], -1))
        outputs, after = step(self.chain, seen, [part * keep.unsqueeze(-1) for part in states])
        best = outputs[-1].argmax(-1)
        if self.previous:
            after.append(nn.functional.one_hot(best, outputs[-1].shape[-1]).float())
        return outputs[-1], best + self.first_action, *after

    def examples(self, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Return random inputs of a batch, each in memory of its own."""
        rng = np.random.default_rng(seed)
        made = {}
        for one in self.inputs:
            shape, dtype = (batch, *one["shape"]), one["dtype"]
            drawn = rng.integers(256, size=shape) if dtype == "uint8" else rng.normal(size=shape)
            made[one["name"]] = (drawn > 0.5 if dtype == "bool" else drawn).astype(dtype)
        return made


class GreyPictures(nn.Module):
    """Compute :class:`~recdqn.policy.encoders.PixelEncoder` with operations that ONNX has, in float32."""

    def __init__(self, encoder: PixelEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pictures ``[batch, 1, size, size]``, uint8."""
        patches = nn.functional.pixel_unshuffle(255.0 - pixels.float(), PATCH)
        outputs = self.encoder.convolutions(patches * (self.encoder.contrast / 255))
        features: Tensor = self.encoder.normalise(self.encoder.features(outputs)).relu()
        return features


def opened(path: str | Path) -> Call:
    """Open an exported file: a function from named inputs, NumPy arrays, to the outputs in their order."""
    if Path(path).suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        return lambda inputs: session.run(None, inputs)
    module = torch.export.load(str(path)).module()

    def call(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            return [part.numpy() for part in module(*map(torch.from_numpy, inputs.values()))]

    return call


def _exportable(module: Any) -> Any:
    """Replace the encoder of pictures in a module of a chain."""
    network = getattr(module, "module", None)
    if isinstance(network, PixelEncoder):
        return TensorDictModule(GreyPictures(network), module.in_keys, module.out_keys)
    if isinstance(network, WithPrevious) and isinstance(network.features, PixelEncoder):
        network = WithPrevious(GreyPictures(network.features), network.actions)
        return TensorDictModule(network, module.in_keys, module.out_keys)
    return module


def _arguments(network: Step) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Return example inputs, and which dimensions of them vary."""
    examples = tuple(torch.from_numpy(part) for part in network.examples(2).values())
    batch = torch.export.Dim("batch", min=1)
    shapes: dict[str, Any] = {"observation": {0: batch}, "is_init": {0: batch}}
    if rest := examples[2:]:
        shapes["state"] = tuple({0: batch} for _ in rest)
    return examples, shapes


def _pt2(network: Step, text: str) -> bytes:
    examples, shapes = _arguments(network)
    content = io.BytesIO()
    program = torch.export.export(network, examples, dynamic_shapes=shapes)
    torch.export.save(program, content, extra_files={METADATA: text})
    return content.getvalue()


def _onnx(network: Step, text: str) -> bytes:
    examples, shapes = _arguments(network)
    with contextlib.redirect_stdout(io.StringIO()):
        program: Any = torch.onnx.export(
            network,
            examples,
            dynamo=True,
            opset_version=OPSET,
            input_names=[one["name"] for one in network.inputs],
            output_names=[one["name"] for one in network.outputs],
            dynamic_shapes=shapes,
            verbose=False,
        )
    proto = program.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA, text
    content: bytes = proto.SerializeToString()
    return content


def _check(call: Call, agent: Agent, network: Step) -> None:
    """Run the file for a few steps beside the agent, with random observations and starts."""
    batch = 3
    state = agent.initial_state(batch)
    for k in range(CHECKED):
        inputs = network.examples(batch, seed=k)
        started = inputs["is_init"][:, 0]
        state = tuple(np.where(started.reshape(-1, *[1] * (s.ndim - 1)), 0, s) for s in state)
        names = [one["name"] for one in network.inputs[2 : 2 + len(state)]]
        inputs |= dict(zip(names, state, strict=True))
        reward = inputs["reward"][:, 0] if network.previous else 0.0
        expected, after = agent.batch_values(inputs["observation"], state, reward)
        found = call(inputs)
        wanted = (expected, expected.argmax(-1) + network.first_action, *after)
        for name, a, b in zip((one["name"] for one in network.outputs), found, wanted, strict=True):
            off = np.abs(a - b).max() / (1 + np.abs(b).max()) if name != "action" else 0.0
            if off > TOLERANCE:
                raise UserError(
                    f"the exported {name} is {off:.1e} away from the agent's: do not use the file"
                )
        state = after


def _spaces(cfg: EnvConfig) -> dict[str, Any]:
    """Describe what the environment returns and takes."""
    observations, actions = declared_spaces(cfg)
    _, first, count = _seen(cfg)
    with contextlib.closing(open_env(cfg)) as env:
        meanings = getattr(env.unwrapped, "get_action_meanings", lambda: None)()
    return {
        "environment": str(cfg.id),
        "observation_space": str(observations),
        "action_space": str(actions),
        "actions": {"count": count, "first": first, "meanings": meanings},
    }


def _seen(cfg: EnvConfig) -> tuple[Any, int, int]:
    """Return the space of what an agent reads, the number of its first action, and how many there are."""
    observations, actions = declared_spaces(cfg)
    count = math.prod(sizes(actions) or [])
    first = int(actions.start) if isinstance(actions, Discrete) else 0
    if cfg.observation == "pixels":
        return Box(0, 255, (1, cfg.image_size, cfg.image_size), np.uint8), first, count
    reader = reader_of(observations, cfg, count)
    return (observations if reader is None else next(iter(reader.spaces.values()))), first, count
