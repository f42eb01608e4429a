"""A checkpoint that is damaged, made by somebody else or of another run is refused, and nothing is lost."""

import io
import json
import os
import pickle
import shutil
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outcomes import newest, outcome, same

from recdqn import resume
from recdqn.errors import UserError


def test_a_checkpoint_without_a_part_is_refused(killed, whole, capsys):
    newer = newest(killed)[1]
    with zipfile.ZipFile(newer) as old:
        files = {name: old.read(name) for name in old.namelist()}
    manifest = json.loads(files["manifest.json"])
    del manifest["components"]["optim"]
    files["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(newer, "w") as new:
        for name, content in files.items():
            new.writestr(name, content)
    resume(killed, progress=False)
    assert "cannot be used (ValueError: other parts than expected)" in capsys.readouterr().err
    assert same(outcome(killed), whole[0])


@pytest.mark.parametrize("damage", ["truncated", "empty", "not an archive", "missing"])
def test_a_damaged_checkpoint_is_refused_and_the_older_one_used(killed, short, whole, capsys, damage):
    older, newer = newest(killed)
    data = newer.read_bytes()
    broken = {"truncated": data[: len(data) // 2], "empty": b"", "not an archive": b"\0" * len(data)}
    newer.unlink() if damage == "missing" else newer.write_bytes(broken[damage])
    resume(killed, progress=False)
    said = capsys.readouterr().err.splitlines()
    if damage == "missing":
        assert said == []
    else:
        (line,) = said
        assert line.startswith(f"{newer} cannot be used (") and line.endswith("trying the one before it")
    assert same(outcome(killed), whole[0])


def test_without_a_usable_checkpoint_a_run_begins_again(killed, whole, capsys):
    for path in newest(killed):
        path.write_bytes(path.read_bytes()[:-100])
    resume(killed, progress=False)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and said[2].endswith("no checkpoint that can be used: the run begins again")
    assert same(outcome(killed), whole[0])


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,  # the same bits in every run of CI
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_flipped_bits_are_noticed_or_harmless(killed, whole, data):
    """Whichever checkpoint is taken then: the run ends as if it had never stopped."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        shutil.copytree(killed, out)
        path = newest(out)[data.draw(st.integers(0, 1), "file")]
        content = bytearray(path.read_bytes())
        # half of the flips hit the directory at the end of the archive, where zipfile looks first
        first = data.draw(st.sampled_from([0, len(content) - 2_000]), "from")
        for place in data.draw(st.lists(st.integers(first, len(content) - 1), min_size=1, max_size=5), "at"):
            content[place] ^= 1 << data.draw(st.integers(0, 7), "bit")
        path.write_bytes(content)
        resume(out, progress=False)
        assert same(outcome(out), whole[0])


class Evil:
    """What an attacker would put into a file: code that runs when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("how", ["in place of a state", "beside it", "as a stored directory"])
def test_a_checkpoint_with_code_is_refused(killed, whole, capsys, tmp_path, monkeypatch, how):
    """Its checksums are right, so only the way of reading it can help."""
    monkeypatch.chdir(tmp_path)
    newer = newest(killed)[1]
    code = io.BytesIO()
    torch.save(Evil(), code)
    with zipfile.ZipFile(newer) as old:
        files = {name: old.read(name) for name in old.namelist()}
    manifest = json.loads(files["manifest.json"])
    part = manifest["components"]["optim"]
    if how == "in place of a state":
        files[f"{part['path']}/state.pt"] = code.getvalue()
    else:
        # tensordict 0.14.3 unpickles such a file where it loads a directory
        name = "other.pt" if how == "beside it" else "state/other.pickle"
        files[f"{part['path']}/{name}"] = pickle.dumps(Evil())
        part["files"].append(name)
        if how == "as a stored directory":
            part["files"].remove("state.pt")
    files["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(newer, "w") as new:
        for name, content in files.items():
            new.writestr(name, content)
    resume(killed, progress=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{newer} cannot be used (")
    assert not (tmp_path / "ran").exists()
    assert same(outcome(killed), whole[0])


def test_what_a_killed_run_leaves_is_swept_away(killed, whole):
    """Killed while it writes, and before it removes the oldest of three; also where nothing else is to do."""
    resume(killed, progress=False)
    older, newer = newest(killed)
    for name in (".checkpoint-1.torchrl.stage-a", ".checkpoint-1.torchrl.backup-b"):
        (killed / "checkpoints" / name).mkdir()
    (killed / ".scratch-x").mkdir()
    (killed / "metrics.json.tmp").touch()
    shutil.copy(older, older.with_name("checkpoint-000000000001.torchrl"))
    with pytest.raises(UserError, match="is finished"):
        resume(killed, progress=False)
    assert newest(killed) == sorted((killed / "checkpoints").iterdir()) == [older, newer]
    names = {path.name for path in killed.iterdir()}
    assert names == {"checkpoints", "config.json", "manifest.json", "metrics.json", "policy.pt"}


def test_checkpoints_that_do_not_fit_are_not_loaded_by_halves(killed, capsys):
    """Whole files with a network of another size in one part: nothing begins from what is half-loaded."""
    for path in newest(killed):
        with zipfile.ZipFile(path) as old:
            files = {name: old.read(name) for name in old.namelist()}
        part = json.loads(files["manifest.json"])["components"]["policy"]["path"] + "/state.pt"
        weights = torch.load(io.BytesIO(files[part]), weights_only=True)
        buffer = io.BytesIO()
        torch.save({k: v[..., :1] if v.ndim else v for k, v in weights.items()}, buffer)
        files[part] = buffer.getvalue()
        with zipfile.ZipFile(path, "w") as new:
            for name, content in files.items():
                new.writestr(name, content)
    with pytest.raises(UserError, match="has no checkpoint that fits: train anew into another folder"):
        resume(killed, progress=False)
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_changed_configuration_is_refused(killed):
    path = killed / "config.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(UserError, match="config.json is not the configuration that .* was made with"):
        resume(killed, progress=False)
