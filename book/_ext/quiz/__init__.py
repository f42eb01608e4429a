"""The directive `quiz`: multiple-choice questions whose answers unfold to an explanation.

The body is a Markdown list, readable in any notebook viewer:

    :::{quiz}
    1. A question?

       - [x] The right answer. :: Why it is right.
       - [ ] Another answer. :: Why it is wrong.
       - [ ] One more. :: Why this one is wrong.
    :::

On the page each answer is a `<details>` element, which works with mouse and keyboard and without a script.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from widgets import add_static_files

QUESTION = re.compile(r"\d+\.\s+(?P<text>.*)")
ANSWER = re.compile(r"\s+- \[(?P<mark>.)\]\s+(?P<text>.*)")
FORM = "expected '1. question' and below it '- [x] right answer :: why' or '- [ ] wrong answer :: why'"


class QuizError(ValueError):
    """Invalid quiz: the message is one line and names the question."""


@dataclass
class Answer:
    """An answer and its explanation in Markdown."""

    text: str
    right: bool
    why: str = ""


@dataclass
class Question:
    """A question in Markdown, and its answers."""

    text: str
    answers: list[Answer] = field(default_factory=list)


def parse(source: str) -> list[Question]:
    """Read the body of a quiz.

    Args:
        source: the Markdown list described at the top of this module.

    Raises:
        QuizError: if a question has not exactly one right answer or not three or four answers, or if an
            answer has no explanation.
    """
    questions: list[Question] = []
    for line in source.splitlines():
        if found := QUESTION.fullmatch(line):
            questions.append(Question(found["text"]))
        elif not questions:
            if line.strip():
                raise QuizError(f"{line.strip()!r} comes before the first question; {FORM}")
        elif found := ANSWER.fullmatch(line):
            if found["mark"] not in " x":
                raise QuizError(f"question {len(questions)}: the mark [{found['mark']}] is unknown; {FORM}")
            questions[-1].answers.append(Answer(found["text"], found["mark"] == "x"))
        else:  # continues the line before
            part = questions[-1].answers[-1] if questions[-1].answers else questions[-1]
            part.text += f"\n{line.strip()}"
    if not questions:
        raise QuizError(f"no question; {FORM}")
    for number, question in enumerate(questions, start=1):
        question.text = question.text.strip()
        _check(number, question)
    return questions


def _check(number: int, question: Question) -> None:
    """Split each answer from its explanation, and refuse a question without exactly one right answer."""
    for answer in question.answers:
        text, *why = re.split(r"\s::\s", answer.text.strip(), maxsplit=1)
        if not text.strip() or not why:
            raise QuizError(f"question {number}: expected 'answer :: why' and found only {answer.text!r}")
        answer.text, answer.why = text.strip(), why[0].strip()
    if not 3 <= (count := len(question.answers)) <= 4:
        raise QuizError(f"question {number}: expected three or four answers and found {count}")
    if (right := sum(answer.right for answer in question.answers)) != 1:
        raise QuizError(f"question {number}: expected one right answer, marked [x], and found {right}")


class html_element(nodes.General, nodes.Element):
    """An HTML element with the name `tag` and, besides classes and identifiers, the attributes `html`."""


def visit_element(self, node: html_element) -> None:
    """Write the start tag."""
    self.body.append(self.starttag(node, node["tag"], "", **node.get("html", {})))


def depart_element(self, node: html_element) -> None:
    """Write the end tag."""
    self.body.append(f"</{node['tag']}>\n")


class Quiz(SphinxDirective):
    """The directive; an error in its body is reported with page and question."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return one group per question."""
        try:
            return [self.group(*pair) for pair in enumerate(parse("\n".join(self.content)), start=1)]
        except QuizError as error:
            raise self.error(f"quiz on page {self.env.docname!r}: {error}") from None

    def group(self, number: int, question: Question) -> nodes.Node:
        """Return a question with its answers below."""
        page = self.env.docname.rpartition("/")[2]
        name = nodes.make_id(f"quiz {page} {self.env.new_serialno('quiz')}")
        label = html_element("", tag="p", ids=[name], classes=["quiz-question"])
        label += nodes.strong("", f"{number}. ")
        label += self.inline(number, question.text)
        group = html_element("", label, tag="div", classes=["quiz"])
        group["html"] = {"role": "group", "aria-labelledby": name}
        for answer in question.answers:
            group += self.choice(number, answer)
        return group

    def choice(self, number: int, answer: Answer) -> nodes.Node:
        """Return an answer that unfolds to a verdict and the explanation."""
        verdict = "Right." if answer.right else "Not quite."
        opened = self.parse_text_to_nodes(f"**{verdict}** {answer.why}")
        summary = html_element("", *self.inline(number, answer.text), tag="summary")
        kind = "right" if answer.right else "wrong"
        body = html_element("", *opened, tag="div", classes=["quiz-why"])
        return html_element("", summary, body, tag="details", classes=["quiz-answer", f"quiz-{kind}"])

    def inline(self, number: int, text: str) -> list[nodes.Node]:
        """Parse Markdown of one paragraph; return its contents."""
        parsed = self.parse_text_to_nodes(text)
        if [type(node) for node in parsed] != [nodes.paragraph]:
            raise QuizError(f"question {number}: expected one paragraph and found {text!r}")
        return parsed[0].children


def setup(app: Sphinx) -> dict[str, bool]:
    """Register directive and node with Sphinx."""
    add_static_files(app, Path(__file__).parent)
    app.add_directive("quiz", Quiz)
    app.add_node(html_element, html=(visit_element, depart_element))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
