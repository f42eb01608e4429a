"""Settings for every pytest run, including `pytest --nbmake book`, whose kernels inherit this environment."""

import importlib.util
import os

# What the command line or the shell has set stays: only gaps are filled.
os.environ.setdefault("RECDQN_PROFILE", "smoke")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks are small, and one thread repeats exactly
if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def pytest_configure(config):
    # Tests draw without a window. Notebook kernels are other processes and keep their inline figures.
    if importlib.util.find_spec("matplotlib"):  # the extra `book`
        import matplotlib

        matplotlib.use("Agg")
