"""What the book says about itself is computed from what is there."""

import about
import pytest
from docutils import nodes

ABOUT = {
    "title": "A book",
    "version": "1.2.0",
    "repository-code": "https://code.example/book",
    "authors": [{"name": "The authors"}, {"given-names": "Ada", "family-names": "Byron"}],
    "date-released": "2031-05-06",
}


def test_citation():
    text, entry = about.citation(ABOUT, published=True)
    assert text == "The authors, Ada Byron (2031). *A book*. Version 1.2.0. <https://code.example/book>"
    assert entry.splitlines() == [
        "@software{recdqn,",
        "  author = {{The authors} and {Ada Byron}},",
        "  title = {{A book}},",
        "  year = {2031},",
        "  version = {1.2.0},",
        "  url = {https://code.example/book},",
        "}",
    ]


def test_citation_of_what_is_not_released():
    undated = {key: value for key, value in ABOUT.items() if key != "date-released"}
    text, entry = about.citation(undated, published=False)
    assert text == "The authors, Ada Byron. *A book*. Version 1.2.0."
    assert "year" not in entry and "url" not in entry


def test_minutes_to_read():
    """Prose and code count; what a cell prints and what is folded away do not."""
    document = nodes.document("", "")
    document += nodes.paragraph("", "word " * 600)
    document += nodes.literal_block("", "x = 1\n" * 60)
    assert about.minutes_to_read(document) == 3 + 2
    document += nodes.container("", nodes.literal_block("", "y\n" * 900), classes=["cell_output"])
    document += nodes.container("", nodes.paragraph("", "word " * 9000), classes=["dropdown"])
    document += nodes.container("", nodes.paragraph("", "word " * 9000), classes=["quiz-why"])
    document += nodes.container("", nodes.literal_block("", "y\n" * 900), classes=["cell", "tag_hide-input"])
    document += nodes.raw("", "<script>" + "word " * 9000, format="html")
    assert about.minutes_to_read(document) == 3 + 2


@pytest.mark.parametrize("seconds, words", [(61.2, "61 seconds"), (95, "2 minutes"), (600, "10 minutes")])
def test_times_in_words(seconds, words):
    assert about.in_words(seconds) == words


def test_commit_where_there_is_no_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("GITHUB_SHA", raising=False)
    assert about.commit(tmp_path) == ""
    monkeypatch.setenv("GITHUB_SHA", "0123456789abcdef")
    assert about.commit(tmp_path) == "0123456789ab"
