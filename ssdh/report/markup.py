"""Small pieces of HTML. What comes from outside goes through `text`; numbers keep all digits in the markup."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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


def table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    kind: str = "",
    classes: Sequence[str] = (),
) -> str:
    """A table of cells that are HTML already; the first cell of a row is its header.

    kind: the table's class; classes: those of its rows, "" for none.
    """
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = []
    for place, (first, *others) in enumerate(rows):
        cells = f'<th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others)
        name = classes[place] if classes else ""
        body.append(f'<tr class="{name}">{cells}</tr>' if name else f"<tr>{cells}</tr>")
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


@dataclass(frozen=True)
class Section:
    """A section of the page: its id, its heading, what it shows, and its content; the last three HTML."""

    name: str
    title: str
    about: str
    body: str

    def html(self) -> str:
        """The element."""
        return (
            f'<section id="{self.name}" aria-labelledby="{self.name}-title"><div class="about">'
            f'<h2 id="{self.name}-title">{self.title}</h2><p>{self.about}</p></div><div>{self.body}</div></section>'
        )
