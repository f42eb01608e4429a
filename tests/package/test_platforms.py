"""The package imports, trains and resumes without what only POSIX has; see windows.py."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

IMPORT_ALL = """
import importlib, pkgutil, recdqn
names = [module.name for module in pkgutil.walk_packages(recdqn.__path__, "recdqn.")]
assert len(names) > 30, names
for name in names:
    importlib.import_module(name)
"""

TRAIN = """
from recdqn import Config, train
cfg = Config.preset("masked-cartpole").replace(
    env={{"num_envs": 2, "workers": {workers}}},
    train={{"total_frames": 256, "warmup_frames": 128, "updates": 2, "eval_every": 2, "eval_episodes": 1,
           "save_seconds": 0.0}},
    policy={{"hidden_size": 8, "features": 8, "head": 8}},
    replay={{"slices": 4, "slice_len": 10}},
)
assert train(cfg, out="run", progress=False).metrics[-1]["updates"] == 6
"""

RESUME = """
from recdqn import resume
assert resume("run", frames=384, progress=False).metrics[-1]["updates"] == 10
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def on_windows(script, folder):
    command = [sys.executable, "-W", "error::UserWarning", HERE / "windows.py", script]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("workers", [False, pytest.param(True, marks=pytest.mark.long)])
def test_every_module_imports_and_a_run_trains_and_resumes(workers, tmp_path):
    on_windows(IMPORT_ALL + TRAIN.format(workers=workers), tmp_path)
    on_windows(RESUME, tmp_path)
    # Windows cannot remove a mapped file: a replay buffer's files stay until the next resume.
    assert len(list(tmp_path.rglob(".scratch-*"))) <= 1


@pytest.mark.parametrize(
    "script",
    [
        "import fcntl",
        "import os; os.fork",
        "from signal import SIGALRM",
        "import signal; signal.signal(1, signal.SIG_IGN)",
        "import sys; assert sys.platform != 'win32'",
        "import pathlib; open('a', 'w'), open('b', 'w'); pathlib.Path('a').rename('b')",
        "import mmap, pathlib; f = open('a', 'w+b'); f.write(b'1'); f.flush(); m = mmap.mmap(f.fileno(), 1); "
        "f.close(); pathlib.Path('a').unlink()",
        "import os, shutil; os.mkdir('d'); f = open('d/a', 'w'); shutil.rmtree('d')",
        "import os; f = open('a', 'w'); g = open('b', 'w'); g.close(); os.replace('b', 'a')",
        "import os; os.mkdir('d'); f = open('d/a', 'w'); os.replace('d', 'e')",
    ],
)
def test_the_imitation_of_windows(script, tmp_path):
    """What must fail on Windows fails in a module of the package, and works in others."""
    as_module = f"exec({script!r}, {{'__name__': 'recdqn.module'}})"
    command = [sys.executable, HERE / "windows.py", as_module]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1 and "Error" in done.stderr.splitlines()[-1]
