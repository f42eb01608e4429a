"""Every notebook runs twice in one kernel under hard conditions, and leaves nothing behind.

The checkout is read-only, ``TMPDIR`` and the home directory are new, there is no display and no network. For
another profile than smoke:
``RECDQN_NOTEBOOK_PROFILE=book pytest -m "long or not long" tests/faults/test_notebooks.py``.
"""

import getpass
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat import v4

ROOT = Path(__file__).parents[2]
PROFILE = os.environ.get("RECDQN_NOTEBOOK_PROFILE", "smoke")
QUICK = {"04-loss"}  # run every time; the rest takes minutes
NOTEBOOKS = [
    pytest.param(path.relative_to(ROOT), id=path.stem, marks=() if path.stem in QUICK else pytest.mark.long)
    for path in sorted((ROOT / "book").rglob("*.ipynb"))
    if ".ipynb_checkpoints" not in path.parts
]
MOUNT = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"'  # in a namespace of its own

# Runs all cells and then all of them again, as Jupyter does: one kernel, started in the notebook's folder.
TWICE = """
import copy, os, sys, nbclient, nbformat
book = nbformat.read(sys.argv[1], as_version=4)
again = copy.deepcopy(book.cells)
for cell in again:
    cell.id += "-2"
book.cells += again
folder = {"metadata": {"path": os.path.dirname(sys.argv[1])}}
nbclient.NotebookClient(book, timeout=None, kernel_name="python3", resources=folder).execute()
"""

# Every Python process, the kernel as well, imports a module of this name when it starts. It refuses and notes
# every other host: a notebook must not even try. Ray's own process asks which cloud this is,
# whatever its settings; that is refused and not noted.
SITECUSTOMIZE = """
import os, socket, sys
def refuse(host):
    if host in ("169.254.169.254", "metadata.google.internal") and "ray" in sys.argv[0]:
        raise OSError("there is no cloud")
    if host not in ("", "localhost", "127.0.0.1", "::1", None):
        with open(os.environ["NETWORK_LOG"], "a") as log:
            print(host, file=log)
        raise OSError(f"there is no network, and this asked for {host}")
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        refuse(address[0])
    return plain_connect(self, address)
def getaddrinfo(host, *rest, **options):
    refuse(host)
    return plain_getaddrinfo(host, *rest, **options)
plain_connect, plain_getaddrinfo = socket.socket.connect, socket.getaddrinfo
socket.socket.connect, socket.getaddrinfo = connect, getaddrinfo
"""


def entries(folder):
    """Return the size and modification time of every file and folder below a folder."""
    return {
        path.relative_to(folder).as_posix(): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
    }


def processes(mark):
    """Kill the processes whose environment holds the mark, and return their command lines."""
    found = []
    for process in psutil.process_iter():
        try:
            if mark in process.environ().values():
                found.append(" ".join(process.cmdline()))
                process.kill()
        except (psutil.Error, OSError):  # it has ended, or is another user's
            continue
    return found


def faults(notebook, tree, folder):
    """Run a notebook of a tree twice in one kernel; return what went wrong, a line each.

    Args:
        notebook: its path below ``tree``.
        tree: the checkout; without write permission, and mounted read-only where this process may do that
            (modes alone do not keep root from writing).
        folder: an empty folder for everything else.
    """
    temporary, home, guard = folder / "tmp", folder / "home", folder / "guard"
    for made in (temporary, home, guard):
        made.mkdir()
    (guard / "sitecustomize.py").write_text(SITECUSTOMIZE)
    log, mark = guard / "log", uuid.uuid4().hex
    environment = {
        **{key: os.environ[key] for key in ("PATH", "LANG", "OMP_NUM_THREADS") if key in os.environ},
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "PYTHONPATH": os.pathsep.join([str(guard), str(tree)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NETWORK_LOG": str(log),
        "RECDQN_PROFILE": PROFILE,
        "RUN_MARK": mark,
    }
    command = [sys.executable, "-c", TWICE, str(tree / notebook)]
    own = ["unshare", "--mount", "sh", "-c"]
    if shutil.which("unshare") and subprocess.run([*own, MOUNT, tree], capture_output=True).returncode == 0:
        command = [*own, f'{MOUNT} && exec "$@"', str(tree), *command]
    before = entries(tree)
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=3600)
    found = [f"failed: {done.stderr[-3000:]}"] if done.returncode else []
    found += [f"process left: {name[:200]}" for name in processes(mark)]
    if log.exists():
        found += [f"network: {host}" for host in log.read_text().splitlines()]
    found += [f"checkout changed: {name}" for name, _ in sorted(entries(tree).items() ^ before.items())]
    # torch's compiler leaves an empty folder; caches and IPython's profile are meant to stay.
    compiler = f"torchinductor_{getpass.getuser()}"
    found += [f"left in TMPDIR: {name}" for name in entries(temporary) if name != compiler]
    kept = (".cache/", ".ipython/")
    found += [f"left at home: {p}" for p in entries(home) if (home / p).is_file() and not p.startswith(kept)]
    return found


def forbid_writing(tree):
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)


def allow_writing(tree):
    """Let pytest remove the tree."""
    for path in [tree, *tree.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the files that git tracks, without write permission."""
    tree = tmp_path_factory.mktemp("checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.split("\0"):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    forbid_writing(tree)
    yield tree
    allow_writing(tree)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_runs_twice_and_leaves_nothing(notebook, checkout, tmp_path):
    assert faults(notebook, checkout, tmp_path) == []


@pytest.mark.parametrize(
    "code, fault",
    [
        ("print('sound')", None),
        ("assert 'once' not in globals()\nonce = True", "failed: "),
        ("import os\nassert 'DISPLAY' in os.environ", "failed: "),
        ("open('note.txt', 'w').close()", "failed: |checkout changed: "),
        ("import tempfile\ntempfile.mkdtemp(prefix='left-')", "left in TMPDIR: left-"),
        ("from pathlib import Path\n(Path.home() / 'left.txt').write_text('')", "left at home: left.txt"),
        (
            "import subprocess\nsubprocess.Popen(['sleep', '20'], start_new_session=True)",
            "process left: sleep",
        ),
        (
            "import urllib.request as r\ntry: r.urlopen('http://far.example')\nexcept OSError: pass",
            "network: far.example",
        ),
    ],
)
def test_each_fault_is_found(code, fault, tmp_path):
    tree, folder = tmp_path / "tree", tmp_path / "rest"
    (tree / "book").mkdir(parents=True)
    folder.mkdir()
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(code)]), tree / "book" / "a.ipynb")
    forbid_writing(tree)
    found = faults("book/a.ipynb", tree, folder)
    allow_writing(tree)
    if fault is None:
        assert found == []
    else:
        assert found and all(line.startswith(tuple(fault.split("|"))) for line in found), found
