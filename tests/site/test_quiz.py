"""The quiz directive: its input, its errors and its HTML."""

import io

import pytest
from bs4 import BeautifulSoup
from quiz import QuizError, parse
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

GOOD = """\
1. What is `2 + 2`,
   in *tens*?

   - [ ] $22$ :: Strings do that,
     numbers do not.
   - [x] 4 :: Count
     your fingers :: all of them.

     A second paragraph.
   - [ ] `x[::2]` :: That takes every second one.

2. Which one?
   - [x] This :: Yes.
   - [ ] That :: No.
   - [ ] Those :: No.
   - [ ] None :: No.
"""


def test_parse_reads_questions_answers_and_explanations():
    first, second = parse(GOOD)
    assert first.text == "What is `2 + 2`,\nin *tens*?"
    assert [answer.text for answer in first.answers] == ["$22$", "4", "`x[::2]`"]
    assert [answer.right for answer in first.answers] == [False, True, False]
    assert first.answers[0].why == "Strings do that,\nnumbers do not."
    assert first.answers[1].why == "Count\nyour fingers :: all of them.\n\nA second paragraph."
    assert [answer.right for answer in second.answers] == [True, False, False, False]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[x] This", "[ ] This", "question 2: expected one right answer, marked [x], and found 0"),
        ("[ ] That", "[x] That", "question 2: expected one right answer, marked [x], and found 2"),
        ("That :: No.", "That", "question 2: expected 'answer :: why' and found only 'That'"),
        ("That :: No.", "That ::", "question 2: expected 'answer :: why' and found only 'That ::'"),
        ("[ ] That", "[?] That", "question 2: the mark [?] is unknown"),
        ("   - [ ] That :: No.\n   - [ ] Those :: No.\n", "", "question 2: expected three or four"),
        (
            "2. Which",
            "   - [ ] Five :: No.\n   - [ ] Six :: No.\n2. Which",
            "question 1: expected three or four",
        ),
        ("1. What", "What", "'What is `2 + 2`,' comes before the first question"),
        (GOOD, "", "no question"),
    ],
)
def test_an_invalid_quiz_is_an_error_of_one_line(old, new, message):
    assert GOOD.count(old) == 1
    with pytest.raises(QuizError) as caught:
        parse(GOOD.replace(old, new))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.fixture
def build(tmp_path):
    """Build a page with a quiz; returns its HTML and the warnings."""

    def run(body):
        source = tmp_path / "source"
        source.mkdir()
        (source / "conf.py").write_text(
            "extensions = ['myst_parser', 'quiz']\nmyst_enable_extensions = ['colon_fence', 'dollarmath']\n"
        )
        (source / "index.md").write_text(f"# Title\n\n:::{{quiz}}\n{body}:::\n")
        warnings = io.StringIO()
        folders = [source, source, tmp_path / "html", tmp_path / "doctrees"]
        with patch_docutils(), docutils_namespace():
            Sphinx(*map(str, folders), "html", status=None, warning=warnings).build()
        html = (tmp_path / "html" / "index.html").read_text(encoding="utf-8")
        return BeautifulSoup(html, "html.parser"), warnings.getvalue()

    return run


def test_answers_are_native_details_grouped_under_their_question(build):
    page, warnings = build(GOOD)
    assert warnings == ""
    groups = page.select("div[role=group]")
    labels = [page.find(id=group["aria-labelledby"]).get_text().strip() for group in groups]
    assert labels == ["1. What is 2 + 2,\nin tens?", "2. Which one?"]
    assert [len(group.select("details")) for group in groups] == [3, 4]
    assert page.select("details[open]") == []  # closed until the reader opens it
    summaries = [summary.get_text().strip() for summary in page.select("summary")]
    assert summaries[1:] == ["4", "x[::2]", "This", "That", "Those", "None"]


def test_the_verdict_is_a_word_and_the_explanation_is_markdown(build):
    page, _ = build(GOOD)
    verdicts = [strong.get_text() for strong in page.select("details strong")]
    assert verdicts == ["Not quite.", "Right.", "Not quite.", "Right.", *["Not quite."] * 3]
    right = page.select("details")[1]
    assert "Count\nyour fingers :: all of them." in right.get_text()
    assert len(right.select("p")) == 2
    assert [code.get_text() for code in page.select("summary code")] == ["x[::2]"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[x] This", "[ ] This", "question 2: expected one right answer"),
        (
            "4 :: Count",
            "4. :: Count",
            "question 1: expected one paragraph and found '4.'",
        ),  # Markdown: a list
    ],
)
def test_a_mistake_is_an_error_that_names_page_and_question(build, old, new, message):
    page, warnings = build(GOOD.replace(old, new))
    assert f"ERROR: quiz on page 'index': {message}" in warnings
    assert warnings.count("ERROR") == 1 and not page.select("details")
