"""The figures show the numbers they are given."""

import re
import subprocess
import sys
import textwrap
from itertools import combinations
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.text import Text

from recdqn import Config, make_env, make_policy
from recdqn.book import plots
from recdqn.book.plots import style
from recdqn.curves import learning_curve
from recdqn.loss import Steps


def linear(color):
    """Red, green and blue light of a colour given as #rrggbb."""
    parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def luminance(color):
    """Relative luminance as WCAG 2 defines it."""
    return linear(color) @ [0.2126, 0.7152, 0.0722]


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def colours(svg):
    """Every colour that an SVG text names outside of pictures."""
    return {c.upper() for c in re.findall(r"#[0-9a-fA-F]{6}(?![\w.])", re.sub(r"base64,[^\"]+", "", svg))}


PIXELS = 96 / 72  # a point on a page


@pytest.fixture(autouse=True)
def figures_have_a_dark_and_a_narrow_twin():
    """What a test has drawn uses colours that have partners, and text that can be read in all versions."""
    yield
    for number in plt.get_fignums():
        figure = plt.figure(number)
        assert colours(style.svg(figure)) - set(style.DARK) == set()
        for text in figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_text()):
            color = to_hex(text.get_color()).upper()
            assert contrast(color, style.WHITE) >= 4.5, text
            assert contrast(style.DARK[color], style.DARK[style.WHITE]) >= 4.5, text
        _, narrow = style.parts(style.svg_of_both(figure))
        if narrow is not None:
            check_on_a_phone(narrow)
    plt.close("all")


def check_on_a_phone(svg):
    """A narrow version fits into 390 pixels beside the page's margins, and its letters are 11 pixels high."""
    assert float(re.search(r'<svg [^>]*?width="([\d.]+)pt"', svg)[1]) * PIXELS <= 330
    # Letters are drawn 100 points high and scaled; what has one factor only is an index of a formula.
    heights = [100 * float(scale) * PIXELS for scale in re.findall(r"scale\(([\d.]+) -[\d.]+\)", svg)]
    assert min(heights) >= 11


PALE = {style.WHITE, style.PALE_BLUE, style.PALE_ORANGE}  # grounds, on which text stands


def test_colours_are_seen_in_both_versions():
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.005)  # as published checkers report it
    for version in (lambda color: color, style.DARK.get):
        for color in style.DARK:
            if color in PALE:
                assert contrast(version(color), version(style.BLACK)) >= 4.5, color
            else:
                assert contrast(version(color), version(style.WHITE)) >= 3, color


# What eyes without one kind of cone see of red, green and blue light (Viénot, Brettel and Mollon, 1999).
SIGHT = {
    "all cones": np.eye(3),
    "no red cones": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "no green cones": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(light):
    """CIE L*a*b*, in which 1 is about the smallest difference that can be seen."""
    x, y, z = (TO_XYZ @ light / TO_XYZ.sum(1)).clip(1e-9)
    f = [t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_are_told_apart_with_every_sight(sight):
    colors = [c for c in style.DARK if c not in PALE | {style.BLACK}]
    for version in (colors, [style.DARK[c] for c in colors]):
        seen = [lab(SIGHT[sight] @ linear(color)) for color in version]
        assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 10


def a_figure():
    with style.style():
        fig, ax = plt.subplots()
        ax.imshow(np.arange(6.0).reshape(2, 3), cmap="PuOr")
        ax.plot([0, 1], color=style.BLUE)
        ax.set_title("black text")
        ax.add_patch(plt.Rectangle((0, 0), 1, 1, fc=style.PALE_BLUE, ec=style.BLACK, hatch="//"))
    return fig


def test_dark_swaps_every_colour_and_no_picture():
    light = style.svg(a_figure())
    night = style.dark(light)
    assert colours(light) >= {style.WHITE, style.BLACK, style.BLUE, style.PALE_BLUE}
    assert colours(night) == {style.DARK[color] for color in colours(light)}
    assert "base64," in light
    # Text is drawn as black faces, which have no colour written down: the file's own must be light.
    own = f' fill="{style.DARK[style.BLACK]}"'
    assert own in re.search(r"<svg [^>]*", night)[0]
    without = [re.sub(r"(?<=: |=\")#\w{6}\b", "", text) for text in (light, night.replace(own, "", 1))]
    assert without[0] == without[1]  # pictures and all


def test_svg_is_the_same_for_the_same_figure_and_has_no_date():
    first, second = style.svg(a_figure()), style.svg(a_figure())
    assert first == second
    assert "<dc:date>" not in first and "<text" not in first  # letters are paths: the same everywhere
    assert re.findall(r"https?://(?!www\.w3\.org|purl\.org|creativecommons\.org)\S+", first) == []


def test_a_notebook_shows_figures_as_svg():
    code = """
        from IPython.core.interactiveshell import InteractiveShell
        shell = InteractiveShell.instance()
        import matplotlib
        matplotlib.use("module://matplotlib_inline.backend_inline")
        import matplotlib.pyplot as plt
        from recdqn.book.plots import style
        with style.style():
            figure, _ = plt.subplots()
        data, _ = shell.display_formatter.format(figure)
        assert f"<dc:title>{style.CREATOR}<" in data["image/svg+xml"]
        assert "image/png" in data  # for programs that cannot show SVG
        plt.close("all")
        from matplotlib_inline.backend_inline import set_matplotlib_formats
        set_matplotlib_formats("png")  # a reader's wish
        with style.style():
            figure, _ = plt.subplots()
        assert "image/svg+xml" not in shell.display_formatter.format(figure)[0]
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


@style.two_widths
def two_panels():
    with style.style():
        fig, axes = style.panels(2, 3.0, 2.0)
        for ax in axes:
            ax.plot([0, 1], label="a line")
        style.legend_beside(axes[1])
    return fig


def test_a_narrow_version_is_below_each_other_and_inside_the_file():
    figure = two_panels()
    assert plt.get_fignums() == [figure.number]  # a notebook shows one
    wide, narrow = style.parts(style.svg_of_both(figure))
    assert ElementTree.fromstring(wide).get("width") == "540pt" and wide.count('id="axes_2"') == 1
    first, second = (ax.get_position() for ax in figure.axes)
    assert first.x1 < second.x0
    tree = ElementTree.fromstring(style.svg_of_both(figure))  # one file, well formed
    assert len([part for part in tree.iter() if part.get("id") == "axes_2"]) == 2
    height = float(ElementTree.fromstring(narrow).get("height").removesuffix("pt"))
    assert height == pytest.approx(2 * 2.0 * 72)
    assert style.parts(wide) == (wide, None)


def lines(ax):
    return {line.get_label(): line.get_xydata().tolist() for line in ax.lines}


def test_seed_curves_draw_the_numbers_of_the_learning_curve():
    def run(first, second):
        rows = ((100, first), (200, second))
        return {"evaluations": [{"frames": f, "returns": [r]} for f, r in rows], "final": None}

    runs = [run(10.0, 20.0), run(30.0, 60.0), run(20.0, 30.0)]
    beside = [{"frames": 50, "returns": [5.0, 7.0]}]
    ax = plots.seed_curves({"many": runs, "one": runs[:1]}, beside={"this run": beside}).axes[0]
    curve, drawn = learning_curve(runs), lines(ax)
    assert drawn["many\nsolved 0 of 3 seeds"] == np.stack([curve.x, curve.iqm], -1).tolist()
    assert drawn["one\nsolved 0 of 1 seed, no interval"] == [[100, 10], [200, 20]]
    assert drawn["this run"] == [[50, 6]]
    (band,) = ax.collections  # one seed has none
    corners = band.get_paths()[0].vertices.tolist()
    for x, low, high in zip(curve.x, curve.low, curve.high, strict=True):
        assert [x, low] in corners and [x, high] in corners
    styles = [line.get_linestyle() for line in ax.lines[:2]]
    assert styles[0] != styles[1]  # not by colour alone


def test_seed_curves_end_together_and_in_minutes():
    def run(frames):
        return {"evaluations": [{"frames": frames, "seconds": 6.0 * frames, "returns": [480.0]}],
                "final": {"returns": [490.0]}}  # fmt: skip

    presets = {"short": [run(100), run(100)], "long": [run(300), run(300)]}
    drawn = lines(plots.seed_curves(presets).axes[0])
    assert drawn["short\nsolved 2 of 2 seeds"] == [[100, 490], [300, 490]]
    drawn = lines(plots.seed_curves(presets, "minutes").axes[0])
    assert drawn["short\nsolved 2 of 2 seeds"] == [[10, 490], [30, 490]]


def test_lines_show_the_values_they_are_given():
    short, long = torch.tensor([2.0, 3.0]), torch.tensor([0.5, 1.0, 0.25])
    figure = plots.replay_counts({"a": (short, long), "b": (long, short)})
    first, second = map(lines, figure.axes)
    assert [y for _, y in first["episode of 2 steps"]] == short.tolist()
    assert [y for _, y in second["episode of 3 steps"]] == long.tolist()
    assert not any(ax.get_legend() for ax in figure.axes)  # within a panel it lay on a curve
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(first)[:2]

    errors = {"one": ([0.5, 0.1], [0.6, 0.4]), "two": ([0.7, 0.2], [0.8, 0.3])}
    axes = plots.train_and_test_errors([1, 2], errors).axes
    for ax, (name, (train, test)) in zip(axes, errors.items(), strict=True):
        assert ax.get_title() == name
        assert list(lines(ax).values()) == [[[1, train[0]], [2, train[1]]], [[1, test[0]], [2, test[1]]]]

    position, error = torch.tensor([-0.5, 0.0, 0.5]), torch.tensor([1.0, 0.25, 4.0])
    (ax,) = plots.errors_by_cart_position(position, {"one": error}, (-0.25, 0.25)).axes
    assert lines(ax)["test pictures"] == [[-0.5, 1], [0, 0.25], [0.5, 4]]
    (span,) = ax.patches
    assert (span.get_x(), span.get_x() + span.get_width()) == (-0.25, 0.25)


def test_policy_graph_names_every_module_and_key():
    cfg = Config.preset("masked-cartpole")
    policy = make_policy(cfg.policy, make_env(cfg.env))
    text = " ".join(t.get_text() for t in plots.policy_graph(policy).axes[0].texts)
    for module in policy:
        assert type(getattr(module, "module", module)).__name__ in text
        for key in module.in_keys:
            assert f'"{key}"' in text


def test_slice_steps_draw_what_the_loss_does_with_each_step():
    """Three slices, of which the last begins an episode, and padding behind the first."""
    steps = Steps(
        row=torch.tensor([0, 0, 0, -1, 1, 1, 2, 2]),
        column=torch.tensor([0, 1, 2, -1, 0, 1, 0, 1]),
        burn_in=torch.tensor([1, 1, 0, 0, 0, 0, 0, 0]).bool(),
        in_loss=torch.tensor([0, 0, 1, 0, 0, 0, 1, 1]).bool(),
    )
    ax = plots.slice_steps(steps, torch.tensor([5, 6, 7, 0, 3, 4, 0, 1])).axes[0]
    drawn = {text.get_position(): text.get_text() for text in ax.texts}
    rows = ["".join(drawn[x, y] for x in range(4) if (x, y) in drawn) for y in range(3)]
    assert rows == ["bblp", "xx", "ll"] and len(drawn) == 8
    begins = [line.get_ydata().tolist() for line in ax.lines if line.get_marker() == ">"]
    assert begins == [[2], []]  # the row, and the empty line of the legend
    assert [text.get_text()[:2] for text in ax.get_legend().get_texts()] == ["b:", "l:", "x:", "p:", "be"]


def test_leak_colours_every_slice_but_the_changed_one():
    changes = {"A": torch.tensor([0.1, 0.2, 0.03, 0.0]), "B": torch.tensor([0.1, 0.2, 0.0, 0.0])}
    fig = plots.leak(changes, [0, 2])
    for ax, (name, values) in zip(fig.axes, changes.items(), strict=True):
        bars = [p for p in ax.patches if p.get_width() < 1]
        assert [p.get_height() for p in bars] == pytest.approx(values.tolist())
        colors = [p.get_facecolor() for p in bars]
        assert colors[0] == colors[1] != colors[2] == colors[3] and ax.get_title(loc="left") == name


def test_stacked_bars_put_the_parts_side_by_side():
    bars = {"slow": {"draw": 3.0, "copy": 1_000.0}, "fast": {"copy": 2.0, "think": 1.0}}
    fig = plots.stacked_bars(bars, "ms")
    (ax,) = fig.axes
    pieces = [(p.get_y() + p.get_height() / 2, p.get_x(), p.get_width()) for p in ax.patches]
    assert pieces == [(0, 0, 3), (0, 3, 1_000), (1, 0, 2), (1, 2, 1)]
    colors = [patch.get_facecolor() for patch in ax.patches]
    assert colors[1] == colors[2] and len(set(colors)) == 3
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("a  draw: 3 | none", "b  copy: 1,000 | 2", "c  think: none | 1")
    ]
    assert [text.get_text() for text in ax.texts] == ["b", " 1,003", " 3"]  # no letter where there is no room


def test_growth_is_relative_to_the_smallest_size():
    ax = plots.growth({"a": {4: 2.0, 40: 4.0}, "b": {1: 5.0, 10: 50.0, 100: 60.0}}).axes[0]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert drawn["a"] == [[1, 1], [10, 2]]
    assert drawn["b"] == [[1, 1], [10, 10], [100, 12]]
    assert drawn["in proportion"] == [[1, 1], [100, 100]]


def test_speed_ups_begin_at_one():
    ax = plots.speed_ups({"a": 2.5, "b": 113.2, "c": 0.5}).axes[0]
    assert [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches] == [
        *((1, 2.5), (1, 113.2), (1, 0.5))
    ]
    assert [text.get_text() for text in ax.texts] == [" 2.5", " 113", " 0.5"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b", "c"]


def test_style_leaves_the_readers_settings_alone():
    before = dict(plt.rcParams)
    with style.style():
        assert plt.rcParams["axes.spines.top"] is False
        fig, _ = plt.subplots()
    assert dict(plt.rcParams) == before
    assert fig.get_facecolor() == (1.0, 1.0, 1.0, 1.0)  # readable on a dark page


def test_the_fleet_is_drawn_with_a_learner_two_actors_and_what_passes():
    (ax,) = plots.fleet_parts().axes
    texts = [text.get_text() for text in ax.texts]
    assert {"learner", "actor 0", "actor 1", "weights", "steps, and the state after them"} <= set(texts)
    assert len([text for text in ax.texts if getattr(text, "arrow_patch", None)]) == 4
    assert len(ax.patches) == 3  # the processes


@pytest.mark.parametrize("update", [0.5, 3.0])
def test_timelines_overlap_what_a_fleet_does_at_once(update):
    """A cycle of the fleet lasts as long as its slower side, here 1 s of collecting."""
    ax = plots.timelines(4.0, 1.0, update, cycles=2).axes[0]
    blocks = [(round(p.get_y() + 0.3), p.get_x(), p.get_width()) for p in ax.patches]
    rows = [[(x, width) for row, x, width in blocks if row == y] for y in range(3)]
    alone, actors, learner = rows
    assert alone == [(0, 4), (4, update), (4 + update, 4), (8 + update, update)]
    cycle = max(1.0, update)
    assert learner == [(1, update), (1 + cycle, update)]
    assert actors == [(0, 1), (1, 1), (1 + cycle, 1)]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["one process", "actors", "learner"]


def test_large_fleets_have_a_line_each_for_their_rate_and_the_age_of_their_weights():
    one = [{"actors": count, "rate": 100.0 * count, "age": 3.0} for count in (16, 32, 64, 128)]
    other = [row | {"rate": 500.0, "age": row["actors"] / 8} for row in one]
    figure = plots.large_fleets({"some": one, "others": other})
    lines = [[line.get_xydata().tolist() for line in ax.lines] for ax in figure.axes]
    for name, (first, second) in zip(("rate", "age"), lines, strict=True):
        assert first == [[row["actors"], row[name]] for row in one]
        assert second == [[row["actors"], row[name]] for row in other]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["some", "others"]
