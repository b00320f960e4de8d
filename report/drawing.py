"""How a plot looks: one panel as an SVG string, with colours that follow the page and bytes that follow the data alone.

Drawn with matplotlib's object interface; pyplot's global state is never touched. Matplotlib is imported on first use, because
`weakspot --help` must not wait for it. No text from the result enters the drawing itself, only its escaped description.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1b1f24"
FAINT = "#6b7280"
SHADE = "#7a8ca3"
# Okabe and Ito's colours, which colour-blind readers tell apart, without the yellow that fades on white and without black.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "v", "P", "X", "<", ">", "p", "h", "d")  # stars and diamonds are kept for what is pointed out
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (9, 2)))

# The page sets these variables for light and dark; elsewhere the fallback colour shows.
VARIABLES = {INK: "--ink", FAINT: "--muted", SHADE: "--shade"} | {colour: f"--series-{i}" for i, colour in enumerate(SERIES)}

STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # shipped with matplotlib, so that the layout is the same on every machine
    "font.size": 11.0,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "figure.dpi": 72.0,
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched, and takes the page's font
    "svg.hashsalt": "weakspot",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
}


@dataclass(frozen=True)
class Look:
    """Colour, marker and dashes of a series. With eleven markers and six colours, 66 series differ."""

    colour: str
    marker: str
    dashes: Any


def look(index: int) -> Look:
    """The look of the index-th series."""
    return Look(SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)], DASHES[index % len(DASHES)])


def draw_panel(paint: Callable[[Axes], None], name: str, title: str, description: str, size: tuple[float, float]) -> str:
    """One pair of axes as SVG.

    Args:
        paint: draws into the axes.
        name: prefix of all ids in the drawing, different for each drawing of a page.
        title, description: for readers who do not see it.
        size: width and height in pixels of the page, at which text has its nominal size.
    """

    def paint_framed(figure: Figure) -> None:
        width, height = size
        axes = figure.add_axes((46 / width, 42 / height, 1 - 58 / width, 1 - 52 / height))
        axes.set_facecolor("none")
        paint(axes)

    return _draw(paint_framed, name, size, label=(title, description))


def draw_swatch(name: str, **line: Any) -> str:
    """A sample of a line or marker for a legend, hidden from screen readers because its words stand beside it."""

    def paint(figure: Figure) -> None:
        from matplotlib.lines import Line2D

        figure.add_artist(Line2D([0.05, 0.5, 0.95], [0.5, 0.5, 0.5], markevery=[1], **line))

    return _draw(paint, name, (30, 20), label=None)


def _draw(paint: Callable[[Figure], None], name: str, size: tuple[float, float], label: tuple[str, str] | None) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    text = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc of the user must not change the bytes
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(size[0] / 72, size[1] / 72))
        figure.patch.set_visible(False)
        paint(figure)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(text, metadata=nothing)
    return _for_page(text.getvalue(), name, size, label)


def _for_page(svg: str, name: str, size: tuple[float, float], label: tuple[str, str] | None) -> str:
    """Make matplotlib's document an element of a page: no prologue, own ids, colours as variables, fewer digits, a label."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'style="[^"]*"', lambda match: _themed(match.group()), svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"(?<=\d\.\d\d)\d+", "", svg)
    width, height = size
    body = svg[svg.index(">") + 1 :].strip()
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    start = f'<svg {names} viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    if label is None:
        return f'{start} aria-hidden="true">{body}\n'
    title, description = (html.escape(text) for text in label)
    described = f'role="img" aria-labelledby="{name}-title {name}-description"'
    texts = f'<title id="{name}-title">{title}</title><desc id="{name}-description">{description}</desc>'
    return f"{start} {described}>{texts}{body}\n"


def _themed(style: str) -> str:
    for colour, variable in VARIABLES.items():
        style = style.replace(f": {colour}", f": var({variable}, {colour})")
    return re.sub(r"font: ([^;\"]*?px) [^;\"]*", r"font: \1 var(--sans, sans-serif)", style)
