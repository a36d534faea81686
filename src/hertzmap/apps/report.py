"""One self-contained HTML page of a run: pictures inlined, nothing fetched, fit to print."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import final

from matplotlib.figure import Figure

from hertzmap import __version__
from hertzmap.apps import plots
from hertzmap.benchmarks import results

CREDITS = {
    "osm": "Buildings and roads © OpenStreetMap contributors, Open Database Licence (ODbL) 1.0.",
    "campus": "Campus measurements © 2019 jakthra, MIT licence.",
}
"""Credits the data's licences ask for."""


@final
@dataclass(frozen=True)
class Picture:
    """A figure with its caption."""

    figure: Figure
    """What is drawn."""
    caption: str
    """What to see in it; also read out in its place."""
    half: bool = False
    """Whether it takes half of the page's width."""


@final
@dataclass(frozen=True)
class Table:
    """A table of figures; the first column is text, the others are numbers."""

    head: tuple[str, ...]
    """Column names with units."""
    rows: tuple[tuple[str, ...], ...]
    """Cells as text."""
    caption: str
    """What the numbers are."""
    strong: tuple[tuple[int, int], ...] = ()
    """(row, column) of the cells to print bold."""


@final
@dataclass(frozen=True)
class Fact:
    """One number worth a headline."""

    value: str
    """The number with its unit."""
    label: str
    """What it is, in a few words."""


@final
@dataclass(frozen=True)
class Section:
    """A chapter of the page."""

    title: str
    """Heading."""
    text: tuple[str, ...] = ()
    """Paragraphs above the blocks."""
    blocks: tuple[Picture | Table, ...] = ()
    """Figures and tables, in order; half-width pictures pair up."""
    facts: tuple[Fact, ...] = ()
    """Headline numbers, above the text."""


@final
@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    """Heading and window title."""
    lead: str
    """One paragraph that says what was done."""
    sections: tuple[Section, ...]
    """Chapters."""
    seed: int
    """Seed of the run."""
    credits: tuple[str, ...] = ()
    """Credits of the data used."""


def best_of(
    rows: Sequence[Sequence[float]], *, smallest: Sequence[bool | None]
) -> tuple[tuple[int, int], ...]:
    """(row, column) of the best value of each column; columns are shifted by the name's.

    Args:
        rows: numbers, without the leading name.
        smallest: per column: True if small is good, False if large is, None to mark nothing.
    """
    marks = []
    for column, wants_small in enumerate(smallest):
        if wants_small is None:
            continue
        values = [row[column] for row in rows]
        best = min(values) if wants_small else max(values)
        marks += [(r, column + 1) for r, value in enumerate(values) if value == best]
    return tuple(marks)


def provenance(seed: int) -> dict[str, str]:
    """What made a result: version, commit, seed, packages and machine, for pages and JSON."""
    versions = results.versions()
    packages = ", ".join(f"{name} {versions[name]}" for name in versions if name != "hertzmap")
    return {
        "hertzmap": __version__,
        "commit": results.commit() or "not known",
        "seed": str(seed),
        "packages": packages,
        "machine": ", ".join(f"{name}: {value}" for name, value in results.hardware().items()),
    }


def render(page: Page) -> str:
    """The page as HTML."""
    sections = "\n".join(_section(section) for section in page.sections)
    return _FRAME.format(
        title=escape(page.title),
        lead=escape(page.lead),
        style=_STYLE,
        sections=sections,
        footer=_footer(provenance(page.seed), page.credits),
    )


def _section(section: Section) -> str:
    parts = [f"<section>\n<h2>{escape(section.title)}</h2>"]
    if section.facts:
        cards = "".join(
            f"<li><strong>{escape(fact.value)}</strong><span>{escape(fact.label)}</span></li>"
            for fact in section.facts
        )
        parts.append(f'<ul class="facts">{cards}</ul>')
    parts += [f"<p>{escape(paragraph)}</p>" for paragraph in section.text]
    parts.append('<div class="blocks">')
    parts += [
        _picture(block) if isinstance(block, Picture) else _table(block) for block in section.blocks
    ]
    parts.append("</div>\n</section>")
    return "\n".join(parts)


def _picture(block: Picture) -> str:
    content = base64.b64encode(plots.picture(block.figure, "webp")).decode("ascii")
    width, height = block.figure.get_size_inches() * plots.DPI
    caption = escape(block.caption)
    return (
        f'<figure class="{"half" if block.half else "full"}">'
        f'<img alt="{caption}" width="{width:.0f}" height="{height:.0f}" '
        f'src="data:image/webp;base64,{content}"><figcaption>{caption}</figcaption></figure>'
    )


def _table(block: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in block.head)
    body = []
    for r, row in enumerate(block.rows):
        cells = [f'<th scope="row">{escape(row[0])}</th>']
        for c, text in enumerate(row[1:], start=1):
            shown = f"<b>{escape(text)}</b>" if (r, c) in block.strong else escape(text)
            cells.append(f"<td>{shown}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f"<table><caption>{escape(block.caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    )


def _footer(made_by: Mapping[str, str], credits: Sequence[str]) -> str:
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in made_by.items()
    )
    return f"<dl>{facts}</dl>" + "".join(f"<p>{escape(text)}</p>" for text in credits)


_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="lead">{lead}</p>
</header>
<main>
{sections}
</main>
<footer>
<h2>How this page was made</h2>
{footer}
</footer>
</body>
</html>
"""

_STYLE = """
body { margin: 0 auto; max-width: 1120px; padding: 2rem 1.5rem 3rem; background: #fff;
  color: #1c1f24; font: 16px/1.55 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; margin: 2.8rem 0 .8rem; padding-top: .9rem;
  border-top: 2px solid #1c1f24; }
.lead { font-size: 1.1rem; color: #3c424c; max-width: 62rem; margin: 0; }
p { max-width: 62rem; margin: .6rem 0; }
.facts { display: flex; flex-wrap: wrap; gap: .8rem; list-style: none; padding: 0; margin: 1rem 0; }
.facts li { flex: 1 1 11rem; border: 1px solid #d9dce1; border-radius: 6px; padding: .7rem 1rem; }
.facts strong { display: block; font-size: 1.5rem; line-height: 1.25; font-weight: 650; }
.facts span { color: #5d6470; font-size: .88rem; line-height: 1.35; display: block; }
.blocks { display: flex; flex-wrap: wrap; gap: 1.2rem 2%; align-items: flex-start; }
figure { margin: 1rem 0 0; }
figure.full { width: 100%; }
figure.half { width: 49%; }
img { width: 100%; height: auto; display: block; }
figcaption, caption { font-size: .88rem; line-height: 1.45; color: #5d6470; text-align: left; }
figcaption { margin-top: .35rem; }
caption { caption-side: bottom; padding-top: .45rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 0; font-size: .94rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; text-align: right; border-bottom: 1px solid #e3e5e9; }
thead th { border-bottom: 1.5px solid #1c1f24; font-weight: 600; vertical-align: bottom; }
th:first-child { text-align: left; }
tbody th { font-weight: 500; }
footer { color: #5d6470; font-size: .85rem; }
footer h2 { color: #1c1f24; font-size: 1.05rem; border-top-width: 1px; }
footer dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem;
  margin: 0 0 .8rem; }
footer dt { font-weight: 600; }
footer dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 700px) { figure.half { width: 100%; } }
@media print { body { max-width: none; padding: 0; font-size: 9.5pt; }
  h1 { font-size: 1.6rem; } h2 { margin-top: 1.2rem; break-after: avoid; }
  .facts li { flex-basis: 7rem; } footer { font-size: .75rem; break-inside: avoid; }
  figure, table, .facts { break-inside: avoid; }
  @page { margin: 14mm; } }
"""
