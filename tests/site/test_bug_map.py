"""The map of bugs: the bugs of its page by part, each with a link and its symptom."""

import json
from pathlib import Path

from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from recdqn.doctor import BUGS

GUIDE = Path(__file__).parents[2] / "book" / "field-guide.ipynb"


def test_the_map_links_every_bug_of_the_page(tmp_path):
    errors = [code for code, bug in BUGS.items() if bug.severity == "error"][:2]
    warning = next(code for code, bug in BUGS.items() if bug.severity == "warning")
    text = ["Guide\n=====\n\n.. bug-map::\n"]
    for part, codes in {"Part A": errors, "Part B": [warning]}.items():
        text.append(f"{part}\n{'-' * len(part)}\n")
        text += [f"{code}\n{'~' * len(code)}\n\n**Symptom.** Sign of {code}.\n\nCause.\n" for code in codes]
    text.append("Others\n------\n\n**Symptom.** Belongs to no bug.\n")
    source = tmp_path / "source"
    source.mkdir()
    (source / "index.rst").write_text("\n".join(text))
    folders = [source, None, tmp_path / "html", tmp_path / "trees"]
    with patch_docutils(), docutils_namespace():
        Sphinx(
            *folders, "html", confoverrides={"extensions": ["bug_map"]}, status=None, warningiserror=True
        ).build()
    page = BeautifulSoup((tmp_path / "html" / "index.html").read_text(encoding="utf-8"), "html.parser")
    columns = page.select(".bug-map-parts > div")
    assert [column.strong.text for column in columns] == ["Part A", "Part B"]
    assert [[a.text for a in column.select("a")] for column in columns] == [errors, [warning]]
    assert [item["class"] for item in page.select(".bug-map-parts li")] == [["error"]] * 2 + [["warning"]]
    symptoms = page.select(".bug-map-symptoms li")
    assert [item.text.split(maxsplit=1) for item in symptoms] == [
        [code, f"Sign of {code}."] for code in (*errors, warning)
    ]
    for link in page.select(".bug-map a"):
        assert page.find(id=link["href"].removeprefix("#")).find(["h2", "h3"]).text.startswith(link.text)
    assert page.select_one(".bug-map-filter").has_attr("hidden")  # it needs JavaScript; the list does not


def test_the_guide_gives_every_bug_a_symptom_that_needs_no_context():
    cells = json.loads(GUIDE.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert "```{bug-map}" in text
    for code in BUGS:
        symptom = text.partition(f"### {code}\n\n**Symptom.** ")[2].partition("\n\n")[0]
        assert symptom and not symptom.startswith("As "), code
