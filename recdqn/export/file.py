"""Export a trained agent as one file, for programs without TorchRL or Python: ONNX, or PyTorch's ``.pt2``."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recdqn.agent import Agent
from recdqn.config import EnvConfig
from recdqn.envs import declared_spaces, open_env
from recdqn.errors import UserError, first_line, installed
from recdqn.export.compare import compare
from recdqn.export.network import Step
from recdqn.policy.encoders import PixelEncoder
from recdqn.run.folder import Run, load_checkpoint, load_manifest
from recdqn.run.provenance import manifest

FORMATS = (".onnx", ".pt2")
OPSET = 20  # of ONNX
METADATA = "recdqn"  # its key in an ONNX file, and its file name in a .pt2 file

Call = Callable[[dict[str, np.ndarray]], list[np.ndarray]]


def export_agent(run: str | Path | Run, out: str | Path) -> dict[str, Any]:
    """Write an agent as a file that computes one step of a batch.

    The inputs are, in order:

    - the observation as the environment returns it, with a batch dimension and the type of its space: the
      file chooses, hides and scales the numbers itself. A vector is ``observation``, ``[batch, n]``, or
      ``[batch, stack, n]`` in float32; of a ``Dict`` or ``Tuple``, each entry that the agent reads is an
      input, such as ``observation.arm.angles``. For an agent that sees what the environment draws it is the
      small grey picture of ``recdqn.envs``, ``[batch, 1, size, size]``, uint8;
    - ``is_init``: ``[batch, 1]``, bool: whether an episode begins. The states are then taken as zeros;
    - ``h`` and, for an LSTM, ``c``: ``[batch, layers, hidden]``, float32. A policy without a recurrent layer
      has neither;
    - with ``env.previous`` also ``previous_action`` ``[batch, actions]``, one-hot, and ``reward``
      ``[batch, 1]``;
    - with ``env.mask`` also ``action_mask`` ``[batch, actions]``: which actions are legal.

    The outputs are ``action_value`` ``[batch, actions]``, very low where an action is not legal; ``action``
    ``[batch]``, int64, as the environment's ``step`` takes it, or the number of the combination if it takes
    several choices (``numpy.unravel_index`` splits it); and the states for the next call, ``h_next``,
    ``c_next`` and so on. The network is computed in float32. The file is run for a few steps after it is
    written, and compared with the agent.

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
        **_spaces(saved.cfg.env, network),
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
    compare(opened(out), Agent(policy, saved.cfg.env), network)
    return description


def description_of(path: str | Path) -> dict[str, Any]:
    """Return the description that :func:`export_agent` wrote into a file.

    Raises:
        UserError: if the file cannot be read, or was not exported by it.
    """
    try:
        if Path(path).suffix == ".onnx":
            text = _session(path).get_modelmeta().custom_metadata_map.get(METADATA)
        else:
            with zipfile.ZipFile(path) as content:
                places = [name for name in content.namelist() if name.endswith(f"/extra/{METADATA}")]
                text = content.read(places[0]).decode() if places else None
    except Exception as error:  # onnxruntime has many kinds
        why = first_line(error)
        raise UserError(f"cannot read {path}: {why}; expected a file of recdqn export") from None
    if text is None:
        raise UserError(f"cannot read {path}: it has no description; expected a file of recdqn export")
    described: dict[str, Any] = json.loads(text)
    return described


def _session(path: str | Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def opened(path: str | Path) -> Call:
    """Open an exported file: a function from named inputs, NumPy arrays, to the outputs in their order.

    The inputs of another ``.pt2`` file than :func:`export_agent`'s must be in the order of its arguments.
    """
    if Path(path).suffix == ".onnx":
        session = _session(path)
        return lambda inputs: session.run(None, inputs)
    module = torch.export.load(str(path)).module()
    try:
        names = [one["name"] for one in description_of(path)["inputs"]]
    except UserError:
        names = []

    def call(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(inputs[name]) for name in names or inputs))
            return [part.numpy() for part in outputs]

    return call


def _arguments(network: Step) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Return example inputs, and which dimensions of them vary."""
    examples = tuple(torch.from_numpy(part) for part in network.examples(2).values())
    batch = torch.export.Dim("batch", min=1)
    return examples, {"inputs": tuple({0: batch} for _ in examples)}


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


def _spaces(cfg: EnvConfig, network: Step) -> dict[str, Any]:
    """Describe what the environment returns and takes."""
    observations, actions = declared_spaces(cfg)
    with contextlib.closing(open_env(cfg)) as env:
        meanings = getattr(env.unwrapped, "get_action_meanings", lambda: None)()
    return {
        "environment": str(cfg.id),
        "observation_space": str(observations),
        "action_space": str(actions),
        "actions": {
            "count": math.prod(network.choices),
            "first": network.first_action,
            "choices": network.choices,
            "meanings": meanings,
        },
    }
