"""Run folders: what they hold, and which ones are refused."""

import json
import subprocess
import sys

import pytest
import torch

from recdqn import evaluate, load_checkpoint, save_checkpoint, train
from recdqn.errors import UserError
from recdqn.run.folder import CHECKPOINTS, CONFIG, MANIFEST, METRICS, WEIGHTS, create_folder
from recdqn.run.provenance import source_commit


@pytest.fixture
def run(tiny, tmp_path):
    return train(tiny.replace(policy={"cell": "gru"}), out=tmp_path / "run", progress=False)


def test_round_trip(run, tmp_path):
    again = load_checkpoint(tmp_path / "run")
    assert (again.cfg, again.metrics, again.final) == (run.cfg, run.metrics, run.final)
    assert evaluate(again.policy, run.cfg.env, episodes=5) == evaluate(run.policy, run.cfg.env, episodes=5)
    state = run.policy.state_dict()
    assert again.policy.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in again.policy.state_dict().items())


def test_folder_holds_four_files_one_checkpoint_and_no_leftovers(run, tmp_path):
    assert {p.name for p in (tmp_path / "run").iterdir()} == {CHECKPOINTS, CONFIG, MANIFEST, METRICS, WEIGHTS}
    (end,) = (tmp_path / "run" / CHECKPOINTS).iterdir()
    assert end.name == f"checkpoint-{512 + 10 + 2:012d}.torchrl"  # frames, updates and evaluations


def test_the_manifest_holds_versions_and_seed(run, tmp_path):
    manifest = json.loads((tmp_path / "run" / MANIFEST).read_text())
    assert manifest["versions"]["torch"] == torch.__version__.split("+")[0]
    assert (manifest["seed"], manifest["threads"], manifest["device"]) == (0, 1, "cpu")
    assert {"command", "commit", "date", "machine"} <= manifest.keys()


@pytest.mark.parametrize(
    "how, command",
    [
        (("-m", "made"), "python -m made --seed 3"),
        (("made/__main__.py",), "__main__.py --seed 3"),
    ],
)
def test_the_command_is_the_one_that_was_typed(tmp_path, how, command):
    (tmp_path / "made").mkdir()
    program = "import json\nfrom recdqn.run.provenance import manifest\nprint(json.dumps(manifest()))\n"
    (tmp_path / "made" / "__main__.py").write_text(program)
    said = subprocess.run([sys.executable, *how, "--seed", "3"], cwd=tmp_path, capture_output=True, text=True)
    assert json.loads(said.stdout)["command"] == command


def test_saving_again_overwrites(run, tmp_path):
    with torch.no_grad():
        for p in run.policy.parameters():
            p.zero_()
    save_checkpoint(tmp_path / "run", run)
    assert all((p == 0).all() for p in load_checkpoint(tmp_path / "run").policy.parameters())


def test_not_a_run(tmp_path):
    with pytest.raises(UserError, match="is not a run: config.json not found"):
        load_checkpoint(tmp_path)


def test_a_device_that_cannot_be_used(run, tmp_path):
    save_checkpoint(tmp_path / "run", run)
    with pytest.raises(UserError, match="device='gpu' cannot be used here .*try device='cpu'"):
        load_checkpoint(tmp_path / "run", device="gpu")


def test_a_run_without_an_evaluation(tiny, tmp_path):
    create_folder(tmp_path / "run", tiny)
    with pytest.raises(UserError, match="has no metrics.json and no policy.pt; .*recdqn resume"):
        load_checkpoint(tmp_path / "run")


def test_a_run_of_another_version_names_it(tiny, tmp_path):
    """Settings that this version does not know are refused with the version that does."""
    create_folder(tmp_path, tiny)
    config, manifest = (json.loads((tmp_path / name).read_text()) for name in (CONFIG, MANIFEST))
    config["train"]["cosine"] = True
    manifest["versions"]["recdqn"] = "9.1.0"
    (tmp_path / CONFIG).write_text(json.dumps(config))
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"was written by recdqn 9.1.0, and this is .*cosine.*recdqn==9.1.0"):
        load_checkpoint(tmp_path)


def test_a_used_folder_is_not_overwritten(run, tmp_path, tiny):
    before = (tmp_path / "run" / WEIGHTS).read_bytes()
    with pytest.raises(UserError, match="run is not empty, it holds a run: .*recdqn resume"):
        train(tiny, out=tmp_path / "run", progress=False)
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == before


def test_a_folder_of_a_run_that_was_killed_at_its_start_is_used(tmp_path, tiny):
    """The manifest is written before the configuration, without which there is nothing to resume."""
    create_folder(tmp_path / "run", tiny)
    (tmp_path / "run" / CONFIG).unlink()
    create_folder(tmp_path / "run", tiny)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {CONFIG, MANIFEST}


def test_a_folder_that_cannot_be_created(tmp_path, tiny):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write a run into .*file"):
        train(tiny, out=tmp_path / "file" / "run", progress=False)


@pytest.mark.parametrize("name", [CONFIG, METRICS, WEIGHTS])
def test_a_damaged_file_is_named_in_one_line(run, tmp_path, name):
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="holds a run that cannot be read") as error:
        load_checkpoint(tmp_path / "run")
    assert len(str(error.value).splitlines()) == 1


def test_weights_that_run_code_when_unpickled_are_refused(run, tmp_path):

    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    torch.save({"a": Evil()}, tmp_path / "run" / WEIGHTS)
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(tmp_path / "run")


def test_the_commit_is_marked_dirty_if_the_source_changed(tmp_path):
    """Deleted results do not count: recording a run again deletes the old one first."""

    def git(*command):
        identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
        subprocess.run(["git", "-C", tmp_path, *identity, *command], check=True, capture_output=True)

    for name in ("recdqn/code.py", "results/run.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("as committed")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = source_commit(tmp_path / "recdqn")
    assert len(clean) == 12
    (tmp_path / "results" / "run.json").unlink()
    assert source_commit(tmp_path / "recdqn") == clean
    (tmp_path / "recdqn" / "code.py").write_text("changed")
    assert source_commit(tmp_path / "recdqn") == f"{clean}-dirty"
