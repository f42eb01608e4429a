"""The accessibility fixes to the site's HTML."""

from accessible import drop_repeated_ids, fix_lists, let_code_break, name_arrows, unlink_bars
from bs4 import BeautifulSoup
from docutils import nodes


def test_arrows_have_names():
    sidebar = (
        '<li><a class="a" href="x.html">API &amp; more</a><details><summary><i></i></summary></details></li>'
    )
    named = name_arrows(sidebar + sidebar)
    assert named.count('<summary aria-label="Pages below API &amp; more"><i></i></summary>') == 2
    assert (
        name_arrows("<details><summary>text</summary></details>")
        == "<details><summary>text</summary></details>"
    )


def test_repeated_ids_go_and_others_stay():
    page = nodes.section(ids=["a-page"])
    page += [nodes.section(ids=["exercise-content"]), nodes.section(ids=["solution-content", "mine"])]
    document = nodes.document(None, None)
    document += page
    drop_repeated_ids(None, document, "a-page")
    assert [section["ids"] for section in document.findall(nodes.section)] == [["a-page"], [], ["mine"]]


def test_the_bar_of_a_solution_holds_no_link():
    link = nodes.reference("", "", nodes.Text(" Exercise 1.1"), nodes.Text(" (A name)"), refid="ex")
    document = nodes.document(None, None)
    document += nodes.admonition(
        "", nodes.title("", "", nodes.Text("Solution to"), link), classes=["solution"]
    )
    document += nodes.admonition("", nodes.title("", "", link.deepcopy()))
    unlink_bars(None, document, "a-page")
    solution, other = document
    assert solution.astext() == "Solution to Exercise 1.1 (A name)"
    assert solution.next_node(nodes.reference) is None
    assert other.next_node(nodes.reference) is not None


def test_code_breaks_after_dots_and_underscores_of_names():
    code = (
        '<code><span class="pre">torch.nn.LSTM(batch_first)</span> <span class="pre">__init__</span></code>'
    )
    assert let_code_break(code) == (
        '<code><span class="pre">torch.<wbr>nn.<wbr>LSTM(batch_<wbr>first)</span>'
        ' <span class="pre">__init__</span></code>'
    )
    assert let_code_break('<span class="pre">0.5</span>') == '<span class="pre">0.5</span>'


def test_short_code_stays_on_one_line():
    shape = '<code class="literal"><span class="pre">[C,</span> <span class="pre">1]</span></code>'
    assert let_code_break(shape) == shape.replace("literal", "literal short")
    key = '<code class="literal"><span class="pre">&quot;step_count&quot;</span></code>'
    assert let_code_break(key) == key.replace("literal", "literal short")
    name = '<code class="literal"><span class="pre">break_when_any_done</span></code>'
    assert let_code_break(name) == name.replace("_", "_<wbr>")


def test_lists_hold_entries_and_nothing_else():
    index = (
        '<ul><li><a href="a">a</a></li>\n<ul><li><a href="b">b</a></li>\n</ul><li><a href="c">c</a></li></ul>'
    )
    whole = BeautifulSoup(fix_lists(index), "html.parser")
    for some in whole.find_all("ul"):
        assert {child.name for child in some.find_all(recursive=False)} == {"li"}
    assert [a.text for a in whole.li.find_all("a")] == ["a", "b"]
    assert fix_lists('<div role="doc-biblioentry">') == '<div role="listitem">'
