"""Small pieces of HTML. What comes from outside goes through `text`; numbers keep all digits in the markup."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

AS_BAR = '<span class="sr">as a bar</span>'  # the header of a column that a screen reader reads as numbers


def text(value: Any) -> str:
    """Escape a value for element content and quoted attributes.

    >>> text('<b>"x" & y')
    '&lt;b&gt;&quot;x&quot; &amp; y'
    """
    return html.escape(str(value), quote=True)


def number(value: float, digits: int = 4) -> str:
    """A number as people read it, with all its digits in the markup; whole numbers with thousands separators.

    >>> number(0.43219), number(1597)
    ('<data value="0.43219">0.4322</data>', '<data value="1597">1,597</data>')
    """
    shown = f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
    return f'<data value="{value!r}">{shown}</data>'


def percent(value: float) -> str:
    """A share as a percentage, all digits in the markup.

    >>> percent(0.0312)
    '<data value="0.0312">3.1&nbsp;%</data>'
    """
    digits = 1 if abs(value) >= 0.01 or value == 0 else 2
    return f'<data value="{float(value)!r}">{100 * value:.{digits}f}&nbsp;%</data>'


def bar(share: float) -> str:
    """A horizontal bar of 0…1, decoration beside a number."""
    width = 100 * min(max(share, 0.0), 1.0)
    return f'<span class="bar" aria-hidden="true"><span style="width:{width:.2f}%"></span></span>'


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """A table of cells that are HTML already; the first cell of a row is its header.

    A row may begin with a mark `class:NAME` that becomes the row's class.
    """
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = []
    for row in rows:
        mark = row[0].removeprefix("class:") if row[0].startswith("class:") else None
        first, *others = row[1:] if mark is not None else row
        cells = f'<th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others)
        body.append(f'<tr class="{mark}">{cells}</tr>' if mark else f"<tr>{cells}</tr>")
    return (
        f'<div class="scroll"><table class="{kind}"><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A description list of (name, HTML)."""
    return (
        '<dl class="facts">' + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in pairs) + "</dl>"
    )


def figure(chart: str | None, title: str, caption: str) -> str:
    """A chart with its title for screen readers and a caption; nothing where there is no chart."""
    if chart is None:
        return ""
    return (
        f'<figure><div class="chart" role="img" aria-label="{text(title)}">{chart}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def section(name: str, title: str, about: str, body: str) -> str:
    """A section of the page: its heading and what it shows beside its content; nothing where it has no content."""
    if not body:
        return ""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title"><div class="about"><h2 id="{name}-title">{title}</h2>'
        f"<p>{about}</p></div><div>{body}</div></section>"
    )
