"""The quiz directive: what it reads, what it refuses, and the page that comes out."""

import io
from html.parser import HTMLParser
from pathlib import Path

import pytest
from quiz import QuizError, parse
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

EXTENSIONS = Path(__file__).parents[2] / "book" / "_ext"

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
        ("1. What", "What", "'What is `2 + 2`,' stands before the first question"),
        (GOOD, "", "no question"),
    ],
)
def test_a_quiz_that_no_reader_could_answer_is_refused_in_one_line(old, new, message):
    assert GOOD.count(old) == 1
    with pytest.raises(QuizError) as caught:
        parse(GOOD.replace(old, new))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


class Tree(HTMLParser):
    """The elements of a page, each with its attributes, its text and the elements around it."""

    def __init__(self, page):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", "up": list(self.open), **dict(attrs)}
        self.elements.append(element)
        if tag not in ("meta", "link", "img", "input"):  # these have no end
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        while self.open.pop()["tag"] != tag:
            pass

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def of(self, tag):
        return [element for element in self.elements if element["tag"] == tag]


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Build a page with a quiz in it; returns its HTML and the warnings."""
    monkeypatch.syspath_prepend(EXTENSIONS)

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
        return (tmp_path / "html" / "index.html").read_text(), warnings.getvalue()

    return run


def test_answers_are_native_details_grouped_under_their_question(build):
    page, warnings = build(GOOD)
    assert warnings == ""
    tree = Tree(page)
    groups = [e for e in tree.of("div") if e.get("role") == "group"]
    labels = [next(e for e in tree.elements if e.get("id") == group["aria-labelledby"]) for group in groups]
    assert [label["text"].strip() for label in labels] == ["1. What is 2 + 2,\nin tens?", "2. Which one?"]
    details = tree.of("details")
    assert [sum(group in answer["up"] for answer in details) for group in groups] == [3, 4]
    assert not any("open" in answer for answer in details)  # closed until the reader opens it
    assert [e["text"] for e in tree.of("summary")][1:] == ["4", "x[::2]", "This", "That", "Those", "None"]


def test_the_verdict_is_a_word_and_the_explanation_is_markdown(build):
    tree = Tree(build(GOOD)[0])
    verdicts = [e["text"] for e in tree.of("strong") if any(up["tag"] == "details" for up in e["up"])]
    assert verdicts == ["Not quite.", "Right.", "Not quite.", "Right.", *["Not quite."] * 3]
    right = tree.of("details")[1]
    assert "Count\nyour fingers :: all of them." in right["text"]
    assert len([e for e in tree.of("p") if right in e["up"]]) == 2
    code = [e["text"] for e in tree.of("code") if any(up["tag"] == "summary" for up in e["up"])]
    assert code == ["x[::2]"]


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
    assert warnings.count("ERROR") == 1 and "<details" not in page
