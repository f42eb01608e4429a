"""Book-wide checks: what every chapter must look like before anybody runs it."""

import ast
import re
import tomllib
from collections import Counter
from itertools import chain, pairwise
from pathlib import Path

import nbformat
import pytest
import quiz
import yaml
from check_site import toc_documents

from recdqn.doctor import BUGS

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
TOC = list(toc_documents(yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))))
CHAPTERS = [document for document in TOC if document.startswith("chapters/")]
SHAPE = [
    "You will be able to",
    "You need",
    "Bug of the chapter",
    "Check yourself",
    "Exercises",
    "What you now know",
]
LONGEST_CELL = 25  # lines of code

each_chapter = pytest.mark.parametrize("chapter", CHAPTERS)


def notebook(chapter):
    return nbformat.read(BOOK / f"{chapter}.ipynb", as_version=nbformat.NO_CONVERT)


def cells(chapter, kind):
    return [cell for cell in notebook(chapter).cells if cell.cell_type == kind]


def prose(path):
    """The Markdown of a page or of a notebook, code cells left out."""
    if path.suffix == ".ipynb":
        name = path.relative_to(BOOK).with_suffix("").as_posix()
        return "\n\n".join(cell.source for cell in cells(name, "markdown"))
    return path.read_text(encoding="utf-8")


def page(document):
    """The source of an entry of the table of contents."""
    found = [p for suffix in (".ipynb", ".md") if (p := BOOK / f"{document}{suffix}").is_file()]
    assert len(found) == 1, f"{document}: expected one .ipynb or .md file, found {found}"
    return found[0]


def test_the_table_of_contents_is_the_same_file_for_the_root_and_the_book():
    link = ROOT / "_toc.yml"
    assert link.is_symlink() and link.resolve() == (BOOK / "_toc.yml").resolve()


def test_toc_lists_every_page_once():
    assert len(TOC) == len(set(TOC))
    sources = [p.relative_to(BOOK) for p in BOOK.rglob("*") if p.suffix in (".ipynb", ".md")]
    pages = [p.with_suffix("").as_posix() for p in sources if ".ipynb_checkpoints" not in p.parts]
    assert sorted(TOC) == sorted(pages)


def test_chapters_are_numbered_in_order():
    numbers = [int(re.match(r"chapters/(\d\d)-", chapter)[1]) for chapter in CHAPTERS]
    assert numbers[:6] == list(range(1, 7)) and numbers == sorted(set(numbers))


@each_chapter
def test_notebook_is_valid_and_clean(chapter):
    book = notebook(chapter)
    nbformat.validate(book)
    assert (book.nbformat, book.nbformat_minor) == (4, 5)
    assert book.metadata.kernelspec.name == "python3"
    identifiers = [cell.id for cell in book.cells]
    assert len(identifiers) == len(set(identifiers))
    for cell in cells(chapter, "code"):
        assert cell.outputs == [], cell.id
        assert cell.execution_count is None, cell.id
        assert cell.source.strip(), f"{cell.id} is empty"


def test_code_cells_are_short():
    notebooks = [document for document in TOC if page(document).suffix == ".ipynb"]
    code = {(document, cell.id): cell.source for document in notebooks for cell in cells(document, "code")}
    assert [cell for cell, source in code.items() if len(source.splitlines()) > LONGEST_CELL] == []


def test_results_of_cells_are_tables_and_not_columns_of_padding():
    """A number format such as ``:>8`` lines columns up; ``show_table`` makes a table of them."""
    padding = re.compile(r"\{[^{}\"']*:[^{}\"']?[<>^]\d|\{[^{}]*:\d+(\.\d+)?[a-z]?\}")
    notebooks = [document for document in TOC if page(document).suffix == ".ipynb"]
    code = {(document, cell.id): cell.source for document in notebooks for cell in cells(document, "code")}
    assert [cell for cell, source in code.items() if padding.search(source)] == []


@each_chapter
def test_chapter_shape(chapter):
    """One title, and the parts that every chapter has, in their order."""
    text = prose(page(chapter))
    outside_fences = re.sub(r"(?ms)^(`{3,}|:{3,}).*?^\1\s*$", "", text)
    assert len(re.findall(r"(?m)^# \S", outside_fences)) == 1
    assert text.lstrip().startswith("# ")
    places = {part: text.find(part) for part in SHAPE}
    assert [part for part, place in places.items() if place < 0] == []
    assert all(places[a] < places[b] for a, b in pairwise(SHAPE)), places


@each_chapter
def test_every_exercise_has_a_solution_that_asserts(chapter):
    """Solutions stand between fences of their own cells, and the code between them checks itself."""
    exercises, solutions, inside = [], {}, None
    for cell in notebook(chapter).cells:
        if cell.cell_type == "markdown":
            exercises += re.findall(
                r"(?m)^`{3,}\{exercise(?:-start)?\}.*\n(?::.*\n)*?:label: (\S+)", cell.source
            )
            for gate, label in re.findall(r"(?m)^`{3,}\{solution-(start|end)\}[ \t]*(\S*)", cell.source):
                inside = label if gate == "start" else None
                if inside:
                    solutions[inside] = ""
        elif cell.cell_type == "code" and inside:
            solutions[inside] += cell.source + "\n"
    assert exercises, "no exercise"
    assert sorted(exercises) == sorted(solutions)
    assert [label for label, code in solutions.items() if "assert" not in code] == []


@each_chapter
def test_exercises_are_graded_from_easy_to_hard(chapter):
    titles = re.findall(r"(?m)^`{3,}\{exercise(?:-start)?\}(.*)$", prose(page(chapter)))
    graded = [re.fullmatch(r".*\S · grade ([123])", title) for title in titles]
    assert [title for title, found in zip(titles, graded, strict=True) if not found] == []
    grades = [found[1] for found in graded]
    assert len(grades) >= 3 and set(grades) == {"1", "2", "3"}
    assert grades == sorted(grades)


def questions(chapter):
    """The quiz of a chapter, in the place where its section says that it is."""
    found = re.findall(r"(?ms)^## Check yourself$.*?^:::\{quiz\}\n(.*?)^:::$", prose(page(chapter)))
    assert len(found) == 1, found
    return quiz.parse(found[0])


@each_chapter
def test_every_chapter_asks_five_questions_and_explains_each_answer(chapter):
    asked = questions(chapter)  # parse() refuses all but one right answer, and an answer without its why
    assert len(asked) == 5
    texts = [text for question in asked for answer in question.answers for text in (answer.text, answer.why)]
    assert len(set(texts)) == len(texts)
    assert all(len(answer.why.split()) > 5 for question in asked for answer in question.answers)


def test_right_answers_cannot_be_guessed_from_place_or_length():
    asked = [question for chapter in CHAPTERS for question in questions(chapter)]
    places, longest = Counter(), 0
    for question in asked:
        lengths = [len(answer.text) for answer in question.answers]
        place = next(k for k, answer in enumerate(question.answers) if answer.right)
        places[place] += 1
        longest += all(lengths[place] > n for k, n in enumerate(lengths) if k != place)
    assert set(places) == {0, 1, 2, 3}
    assert max(places.values()) <= 0.4 * len(asked), places
    assert longest <= len(asked) / 3, longest


def test_the_bibliography_is_what_the_pages_cite():
    """No citation without an entry, and no entry without a citation."""
    keys = set(re.findall(r"(?m)^@\w+\{([^,]+),", (BOOK / "references.bib").read_text(encoding="utf-8")))
    texts = [prose(page(document)) for document in TOC]  # and the docstrings that reference pages show
    texts += [path.read_text(encoding="utf-8") for path in (ROOT / "recdqn").rglob("*.py")]
    groups = re.findall(r"(?:\{cite(?::\w+)?\}|:cite(?::\w+)?:)`([^`]+)`", "\n".join(texts))
    assert {key.strip() for group in groups for key in group.split(",")} == keys


def test_images_have_alt_text():
    for document in TOC:
        text = prose(page(document))
        assert re.findall(r"!\[\s*\]\([^)]*\)", text) == [], document
        tags = re.findall(r"<img\b[^>]*>", text)
        assert [tag for tag in tags if not re.search(r'\balt="[^"]+"', tag)] == [], document
        blocks = re.findall(r"(?ms)^(`{3,}|:{3,})\{(?:figure|image|glue:figure)\}(.*?)^\1\s*$", text)
        without = [body for _, body in blocks if not re.search(r"(?m)^:alt: \S|^alt: \S", body)]
        assert without == [], document


def test_no_page_names_a_machine():
    """No home or working folder, and no address but a public one."""
    for document in TOC:
        text = page(document).read_text(encoding="utf-8")
        assert re.findall(r"(?<![\w./:-])/(?:home|root|Users|work|mnt)/[\w.-]+", text) == [], document
        assert re.findall(r"https?://(?!127\.0\.0\.1)(?:\d{1,3}\.){3}\d{1,3}", text) == [], document


def headings(text):
    return [line.lstrip("#").strip() for line in text.splitlines() if line.startswith("#")]


def test_the_field_guide_has_every_bug_and_no_other():
    guide = [name for name in headings(prose(BOOK / "field-guide.ipynb")) if "-" in name and " " not in name]
    assert sorted(guide) == sorted(BUGS)


def test_the_field_guide_runs_every_bug_and_its_fix():
    """Its cells run in CI: ``show`` needs the finding, and ``gone`` needs that the check finds it no more."""
    code = "\n".join(cell.source for cell in cells("field-guide", "code"))
    for name in BUGS:
        assert f'show("{name}"' in code and f'gone("{name}"' in code, name


@each_chapter
def test_the_bug_of_the_chapter_names_the_finding_that_catches_it(chapter):
    bug = prose(BOOK / f"{chapter}.ipynb").split("## Bug of the chapter")[1].split("## Check yourself")[0]
    assert [code for code in BUGS if code in bug]
    assert any("diagnose(" in cell.source for cell in cells(chapter, "code"))


def test_the_reference_index_names_every_module_and_every_page():
    index = page("reference/index").read_text(encoding="utf-8")
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = {name for layer in contracts["contracts"][0]["layers"] for name in layer.split(" | ")}
    modules = re.findall(r"`([a-z_]+)/?`", "\n".join(re.findall(r"(?m)^\| \{doc\}`\w+` \| ([^|]+)", index)))
    assert sorted(modules) == sorted(layers)
    pages = {name.removeprefix("reference/") for name in TOC if name.startswith("reference/")} - {"index"}
    assert set(re.findall(r"\{doc\}`(\w+)`", index)) == pages


# Modules that a training run does not need.
BESIDE_A_RUN = ("book/", "doctor/", "loss/", "flow.py", "errors.py")
RAISING = sorted(
    name
    for path in (ROOT / "recdqn").rglob("*.py")
    if not (name := path.relative_to(ROOT / "recdqn").as_posix()).startswith(BESIDE_A_RUN)
)
MESSAGES = ("UserError", "ConfigError", "NotFinite", "Stopped")


def longest_fragments(module):
    """Of each message that a module raises, the longest part that is always the same."""
    tree = ast.parse((ROOT / "recdqn" / module).read_text(encoding="utf-8"))
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in MESSAGES:
            texts = [n.value for a in call.args for n in ast.walk(a) if isinstance(n, ast.Constant)]
            parts = [part for text in texts if isinstance(text, str) for part in text.split("\n")]
            if parts and len(longest := max(parts, key=len)) > 5:
                yield longest


def test_every_message_of_a_run_is_explained():
    page = re.sub(r"(?ms)^```.*?^```$", "", prose(BOOK / "when-things-go-wrong.ipynb"))
    explained = " ".join(re.findall(r"`([^`]+)`", page))
    missing = []
    for fragment in chain.from_iterable(map(longest_fragments, RAISING)):
        parts = [part.strip(" ;:,()'") for part in re.split(r"[;(]|'recdqn resume", fragment)]
        if not any(part in explained for part in parts if len(part) > 5):
            missing.append(fragment)
    assert missing == []
