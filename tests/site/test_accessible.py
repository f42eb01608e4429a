"""The accessibility fixes to the site's HTML."""

from accessible import drop_repeated_ids, fix_lists, move_space_before_link, name_arrows
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


def test_the_space_before_the_name_of_an_exercise_is_not_part_of_the_link():
    link = nodes.reference("", "", nodes.Text(" Exercise 1.1"), nodes.Text(" (A name)"), refid="ex")
    document = nodes.document(None, None)
    document += nodes.title("", "", nodes.Text("Solution to"), link)
    move_space_before_link(None, document, "a-page")
    title = document[0]
    assert title.astext() == "Solution to Exercise 1.1 (A name)"
    assert title.next_node(nodes.reference).astext() == "Exercise 1.1 (A name)"


def test_lists_hold_entries_and_nothing_else():
    index = (
        '<ul><li><a href="a">a</a></li>\n<ul><li><a href="b">b</a></li>\n</ul><li><a href="c">c</a></li></ul>'
    )
    whole = BeautifulSoup(fix_lists(index), "html.parser")
    for some in whole.find_all("ul"):
        assert {child.name for child in some.find_all(recursive=False)} == {"li"}
    assert [a.text for a in whole.li.find_all("a")] == ["a", "b"]
    assert fix_lists('<div role="doc-biblioentry">') == '<div role="listitem">'
