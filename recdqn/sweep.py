"""Sweeps: train every combination of some settings, side by side on this machine or on a Ray cluster."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from recdqn.config import Config
from recdqn.curves import Record, draw_curves, final_return
from recdqn.errors import UserError, first_line, installed, show
from recdqn.evaluation import Evaluation, decimals
from recdqn.fields import dotted
from recdqn.presets import PRESETS
from recdqn.run.folder import CONFIG, METRICS, load_config
from recdqn.run.signals import GracefulStop, Interrupted, Stopped
from recdqn.scale.cluster import HEARTBEAT, Cluster

TABLE, FIGURE = "sweep.md", "sweep.png"  # in the folder of a sweep
KEPT = ("config.json", "manifest.json", "metrics.json", "policy.pt")  # what a run on a cluster sends back

RUN = """
import sys
from recdqn import cli
from recdqn.run.signals import stop_at_end_of_input
sys.argv[0] = "recdqn"  # for the manifest
stop_at_end_of_input()
cli.main()
"""


def combinations(base: Config, choices: Mapping[str, tuple[Any, ...]]) -> dict[str, Config]:
    """Return every combination of settings, by the name of its folder, ``SETTING=VALUE,.../seed-N``.

    Args:
        base: the other settings.
        choices: values by dotted name.

    Raises:
        ConfigError: if training cannot use one of them.

    Example:
        >>> list(combinations(Config(), {"seed": (0, 1), "loss.n_steps": (1, 3)}))
        ['loss.n_steps=1/seed-0', 'loss.n_steps=3/seed-0', 'loss.n_steps=1/seed-1', 'loss.n_steps=3/seed-1']
    """
    found = {}
    for values in itertools.product(*choices.values()):
        settings = dict(zip(choices, values, strict=True))
        changes: dict[str, Any] = {}
        for name, value in settings.items():
            part, _, field = name.rpartition(".")
            (changes.setdefault(part, {}) if part else changes)[field] = value
        cfg = base.replace(**changes)
        cfg.check_training()
        varied = [f"{name}={settings[name]}" for name in choices if name != "seed" and len(choices[name]) > 1]
        found[f"{','.join(varied) or cfg.name}/seed-{cfg.seed}"] = cfg
    return found


def sweep(
    runs: Mapping[str, Config],
    out: Path,
    jobs: int = 1,
    address: str | None = None,
    say: Callable[[str], None] = print,
) -> str:
    """Train all runs that are not finished yet, and write a table and a figure of them into ``out``.

    The figure shows the learning curves, see :func:`recdqn.curves.draw_curves`, and needs Matplotlib.

    Args:
        runs: configurations by folder, from :func:`combinations`.
        out: the folder of the sweep.
        jobs: as for :func:`train_all`.
        address: as for :func:`train_all`.
        say: is told of each run that ends.

    Returns:
        The table, see :func:`table`.

    Raises:
        UserError: as :func:`train_all`.
    """
    train_all(runs, out, jobs, address, say)
    text = table(runs, out)
    (out / TABLE).write_text(f"{text}\n", encoding="utf-8")
    if not installed("matplotlib"):
        say(f"{out / FIGURE} is not drawn: pip install matplotlib")
    else:
        draw(runs, out)
    return text


def train_all(
    runs: Mapping[str, Config],
    out: Path,
    jobs: int = 1,
    address: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Train all runs that are not finished yet.

    A run on this machine is a process of its own, which a later call resumes from its checkpoint. On a
    cluster it is a Ray task, which begins again elsewhere if its machine is lost, and sends its files back at
    the end.

    Args:
        runs: configurations by folder, from :func:`combinations`.
        out: the folder of the sweep.
        jobs: runs at the same time, on this machine.
        address: of a Ray cluster, as ``scale.address``; it decides how many runs fit at the same time.
        say: is told of each run that ends.

    Raises:
        UserError: before anything is trained, if there are no runs, or if a folder holds a run with other
            settings; at the end, if runs have failed; the others are finished.
    """
    if not runs:
        raise UserError("there is nothing to train: expected at least one value of each setting")
    if jobs < 1:
        raise UserError(f"jobs={jobs}: expected at least 1")
    for name, cfg in runs.items():
        _check_settings(out / name, cfg)
    waiting = {name: cfg for name, cfg in runs.items() if not _finished(out / name, cfg)}
    ended = _here(waiting, out, jobs) if address is None else _on_cluster(waiting, out, address)
    failed = {}
    for name, problem in ended:
        say(f"{name}: {problem or 'done'}")
        if problem:
            failed[name] = problem
    if failed:
        name, problem = next(iter(failed.items()))
        raise UserError(f"{len(failed)} of {len(runs)} runs failed; {name}: {problem}")


def table(runs: Mapping[str, Config], out: Path) -> str:
    """Return a Markdown table with a row for each combination, over its seeds.

    The return of a run is that of its last evaluation, or of the confirmation if it was solved; the interval
    is that of :attr:`recdqn.evaluation.Evaluation.interval`, over the runs.
    """
    lines = [
        "| settings | seeds | solved | mean return | 95 % interval | frames (median) |",
        "|---|---|---|---|---|---|",
    ]
    for name, group in _groups(runs, out).items():
        returns = tuple(map(final_return, group))
        over = Evaluation(returns, ()).interval if len(group) > 1 else None
        digits = decimals(returns)
        interval = "–" if over is None else f"{over[0]:.{digits}f} to {over[1]:.{digits}f}"
        frames = statistics.median(saved["evaluations"][-1]["frames"] for saved in group)
        solved = sum(saved["final"] is not None for saved in group)
        mean = statistics.mean(returns)
        lines.append(f"| {name} | {len(group)} | {solved} | {mean:.{digits}f} | {interval} | {frames:,.0f} |")
    return "\n".join(lines)


def draw(runs: Mapping[str, Config], out: Path) -> None:
    """Draw the learning curve of each combination, over its seeds, into ``out``."""
    from matplotlib.figure import Figure  # optional

    fig = Figure(figsize=(9, 4.5), layout="constrained")
    ax = fig.subplots()
    draw_curves(ax, _groups(runs, out))
    for solved in {cfg.train.solved_return for cfg in runs.values()}:
        ax.axhline(solved, ls="--", lw=1, color="grey", label=f"solved: {solved:g}")
    fig.legend(loc="outside right upper")
    fig.savefig(out / FIGURE, dpi=150)


def _groups(runs: Mapping[str, Config], out: Path) -> dict[str, list[Record]]:
    """Return the metrics of the runs of each combination."""
    groups: dict[str, list[Record]] = {}
    for name in runs:
        saved = json.loads((out / name / METRICS).read_text())
        groups.setdefault(name.rpartition("/")[0], []).append(saved)
    return groups


def _here(runs: Mapping[str, Config], out: Path, jobs: int) -> Iterator[tuple[str, str | None]]:
    processes = _Processes()
    with GracefulStop() as stop, ThreadPoolExecutor(jobs) as pool:
        started = {pool.submit(_train, cfg, out / name, processes): name for name, cfg in runs.items()}
        try:
            with stop.immediate():
                for future in as_completed(started):
                    yield started[future], future.result()
        except Interrupted as stopped:
            raise Stopped(stopped.status - 128, "stopped; the same command goes on with the sweep") from None
        finally:
            stop.cancel_deadline()
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()


def _on_cluster(runs: Mapping[str, Config], out: Path, address: str) -> Iterator[tuple[str, str | None]]:
    if not runs:
        return
    cluster = Cluster(next(iter(runs.values())).replace(scale={"address": address}))
    try:
        import ray

        remote = ray.remote(num_cpus=1, max_retries=-1)(_train_away)
        waiting = {remote.remote(cfg): name for name, cfg in runs.items()}
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=HEARTBEAT)
            cluster.check()
            for one in done:
                problem, files = cluster.get(one)
                name = waiting.pop(one)
                (out / name).mkdir(parents=True, exist_ok=True)
                for file, content in files.items():
                    (out / name / file).write_bytes(content)
                yield name, problem
    finally:
        cluster.close()


def _train_away(cfg: Config) -> tuple[str | None, dict[str, bytes]]:
    """Train in a temporary folder of another machine."""
    with tempfile.TemporaryDirectory() as folder:
        problem = _train(cfg, Path(folder) / "run", _Processes())
        files = [Path(folder) / "run" / name for name in KEPT]
        return problem, {file.name: file.read_bytes() for file in files if file.is_file()}


class _Processes:
    """The processes of a sweep that train; each runs until it ends, or until all are stopped."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []
        self._stopped = False

    def add(self, process: subprocess.Popen[str]) -> None:
        """Add a process, and stop it if :meth:`stop` was called while it started."""
        self._started.append(process)
        if self._stopped:
            _end_input(process)

    def stop(self) -> None:
        """Close the input of all processes: each saves its state and stops."""
        self._stopped = True
        for process in self._started:
            _end_input(process)


def _end_input(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def _train(cfg: Config, out: Path, processes: _Processes) -> str | None:
    """Train or resume in a process of its own; return the last line that it said if it failed."""
    command = [sys.executable, "-c", RUN]
    if (out / CONFIG).is_file():
        command += ["resume", str(out)]
    else:
        command += ["train", *arguments(cfg), "--out", str(out)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # it ends with this process, and then the run stops
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches the sweep only
    ) as process:
        processes.add(process)
        assert process.stderr is not None
        said = process.stderr.read()
    if process.returncode == 0:
        return None
    return said.strip().splitlines()[-1] if said.strip() else f"exit status {process.returncode}"


def arguments(cfg: Config) -> list[str]:
    """Return the arguments of ``recdqn train`` that give this configuration: a preset, and what differs."""
    preset = Config.preset(cfg.name if cfg.name in PRESETS else next(iter(PRESETS)))
    given = [preset.name]
    # With another environment, the command begins from neutral values for it.
    usual = dotted(preset.replace(env={"id": cfg.env.id})) | {"env.id": preset.env.id}
    for name, value in dotted(cfg).items():
        if value != usual[name]:
            given += [f"--{name}", *map(str, value)] if isinstance(value, tuple) else [f"--{name}={value}"]
    return given


def _check_settings(out: Path, cfg: Config) -> None:
    """Refuse a folder whose run is not that of ``cfg``: it would be resumed, and counted, as it is."""
    if not (out / CONFIG).is_file():
        return
    saved, wanted = dotted(load_config(out)), dotted(cfg)
    if saved["train.total_frames"] > wanted["train.total_frames"]:  # it was resumed for longer
        wanted["train.total_frames"] = saved["train.total_frames"]
    wanted["scale.address"] = saved["scale.address"]  # and maybe on another cluster
    for name, value in saved.items():
        if value != wanted[name]:
            found = f"{name}={show(value)}, and not {show(wanted[name])}"
            raise UserError(f"{out} holds a run with {found}: choose another folder")


def _finished(out: Path, cfg: Config) -> bool:
    if not (out / METRICS).is_file():
        return False
    try:
        saved = json.loads((out / METRICS).read_text())
        last = saved["evaluations"][-1]["frames"]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{out / METRICS} cannot be read ({first_line(error)}): remove the folder to train the run again"
        ) from None
    return saved["final"] is not None or last >= cfg.train.collections * cfg.train.frames_per_batch
