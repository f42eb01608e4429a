"""Documents name files, commands and settings of the project that exist."""

import re
from pathlib import Path

import pytest
import yaml

from recdqn import Config

ROOT = Path(__file__).parents[2]
MADE = ("_build/", ".venv/", "runs/")  # by a command
each_document = pytest.mark.parametrize("document", ["CONTRIBUTING.md", "README.md", "benchmarks/NOTES.md"])


@each_document
def test_every_path_exists(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    quoted = re.findall(r"(?<!`)`([\w./-]+)`(?!`)", text)
    paths = {name for name in quoted if "/" in name or re.search(r"\.(md|py|json|toml|txt|yml|bib)$", name)}
    paths -= {"release.yml"}  # the name alone, as PyPI asks for it
    missing = {path for path in paths if not path.startswith(MADE) and not (ROOT / path).exists()}
    assert missing == set()


@each_document
def test_every_make_target_and_module_exists(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"(?m)(?:`|^    |=smoke )make ([a-z]+)", text)
    assert [name for name in targets if not re.search(rf"(?m)^{name}:", makefile)] == []
    modules = re.findall(r"python -m ((?:recdqn|benchmarks)[\w.]*)", text)
    files = [ROOT / name.replace(".", "/") for name in modules]
    assert [f for f in files if not (f.with_suffix(".py").is_file() or (f / "__main__.py").is_file())] == []


@pytest.mark.parametrize("page", ["README.md", "book/whats-next.md"])
def test_every_setting_is_accepted(page):
    """Arguments of ``Config.replace``, as in ``env={"num_envs": 8}``."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"(?:env|policy|loss|replay|train)=\{[^}]*\}", text)
    assert found
    for arguments in found:
        changed = eval(f"cfg.replace({arguments})", {"cfg": Config()})
        assert changed != Config(), arguments


def test_the_project_has_one_address():
    """The one that ``_config.yml`` names."""
    address = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    files = [ROOT / name for name in ("CITATION.cff", "pyproject.toml", "README.md", "CONTRIBUTING.md")]
    files += [path for pattern in ("*.md", "*.ipynb") for path in (ROOT / "book").rglob(pattern)]
    found = {
        at for file in files for at in re.findall(r"https://github.com/[\w-]+/recdqn\b", file.read_text())
    }
    assert found == {address}
