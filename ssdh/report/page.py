"""The page: sections in the order in which a run is judged, each made from the tables of `metrics/` alone.

    page = render(Report(results=read_results(Path("metrics")), …))

Numbers are printed from the files, never typed; a part whose file is empty (a run without labels) is left out.
"""

from pathlib import Path
from typing import Any

from ssdh.report import charts, sections
from ssdh.report.contents import Report
from ssdh.report.gallery import Query
from ssdh.report.markup import Section, facts, number, table, text
from ssdh.report.quality import baselines, quality, title

HEAD_BASELINES = 4  # beside the headline's mAP, the best ones

STYLE = Path(__file__).with_name("style.css")
CODES = "models/codes.npy"


def render(report: Report) -> str:
    """The whole page as HTML with no reference to any other file or address."""
    with charts.plain_style():
        return _page(report)


def _page(report: Report) -> str:
    parts = [
        _run(report),
        quality(report),
        sections.structure(report),
        sections.training(report),
        sections.curves(report),
        sections.rerank(report),
        sections.codes(report),
        sections.classes(report),
        _queries(report),
    ]
    shown = [part for part in parts if part]
    links = "".join(f'<li><a href="#{part.name}">{part.title}</a></li>' for part in shown)
    run = f"{_dataset(report)}, {report.results.metrics.get('bits', '?')} bits"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="generator" content="ssdh"><title>SSDH report: {text(run)}</title>'
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head><body>\n"
        f'<header>{_head(report)}<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n<main>\n'
        + "\n".join(part.html() for part in shown)
        + f"\n</main>\n<footer>{_footer()}</footer>\n</body></html>\n"
    )


def _dataset(report: Report) -> str:
    return str(report.results.metrics.get("dataset") or report.results.data.get("dataset", "images"))


def _head(report: Report) -> str:
    metrics = report.results.metrics
    head = (
        '<p class="kicker">Semantic structure-based unsupervised deep hashing</p>'
        f"<h1>{text(_dataset(report))}, {text(metrics.get('bits', '?'))}-bit codes</h1>"
    )
    if "map" in metrics:
        known = baselines(report, "map").items()
        best = sorted(known, key=lambda item: -item[1]["map"])[:HEAD_BASELINES]
        others = [f"{title(method, values)} {number(values['map'])}" for method, values in best]
        beside = f" On the same {report.unit}: {', '.join(others)}." if others else ""
        head += (
            f'<p class="headline"><span class="value">{number(metrics["map"])}</span>'
            f'<span class="what">mAP@{number(metrics["topk"])}, the expectation over the order of items at equal '
            f"distance.{beside}</span></p>"
        )
    else:
        head += (
            f'<p class="headline"><span class="what">These {report.unit} have no labels, so no mAP says whether what '
            f"is found is of the <em>same kind</em>: judge by the nearest {report.unit} below. Whether it is the "
            "<em>same picture</em> is measured without labels: the share of the nearest by features that the codes "
            "find.</span></p>"
        )
    if report.weights == "random":
        head += (
            '<p class="smoke"><strong>A smoke run.</strong> The weights of the backbone are random: this shows that '
            "the pipeline works, and measures nothing about the method.</p>"
        )
    return head


def _run(report: Report) -> Section:
    data, groups = report.results.data, report.parameters
    backbone = groups.get("backbone", {})
    entries = [("data set", text(_dataset(report)))]
    entries += [
        (label, number(data[key]))
        for key, label in (("query", "queries"), ("train", f"train {report.unit}"), ("database", "database"))
        if key in data
    ]
    if "arch" in backbone:
        layer = "" if backbone.get("layer") in (None, "auto") else f", {text(backbone['layer'])}"
        entries.append(("backbone", f"{text(backbone['arch'])}{layer}"))
    if {"dim", "dtype"} <= data.keys():
        entries.append(("embeddings", f"{number(data['dim'])} values, {text(data['dtype'])}"))
    elif report.weights:
        entries.append(("weights", text(report.weights)))
    entries += [
        (label, text(groups["run"][key]))
        for key, label in (("bits", "bits"), ("recipe", "recipe"), ("seed", "seed"))
        if key in groups.get("run", {})
    ]
    results = {path: digest for stage in report.stages for path, digest in stage.outs}
    if CODES in results:
        entries.append(("codes, md5", f"<code>{text(results[CODES][:12])}</code>"))
    body = facts(entries)
    if report.stages:
        code = {path: digest for stage in report.stages for path, digest in stage.code}
        body += _details("Results with their hashes, from <code>dvc.lock</code>", _hashes(results))
        body += _details("Code with its hashes, from <code>dvc.lock</code>", _hashes(code))
    if groups:
        chips = "".join(
            f"<h3>{text(group)}</h3>{facts((text(key), _value(value)) for key, value in values.items())}"
            for group, values in groups.items()
        )
        note = "<p>The values of <code>params.yaml</code> when this page was made.</p>"
        body += _details("All parameters as they took effect", note + chips)
    return Section(
        "run",
        "What ran",
        "Data, parameters and code of this run. The same inputs give the same codes, bit for bit.",
        body,
    )


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary><div>{body}</div></details>"


def _hashes(files: dict[str, str]) -> str:
    listed = (f"<li>{text(path)} <span>{text(digest[:12])}</span></li>" for path, digest in sorted(files.items()))
    return f'<ul class="hashes">{"".join(listed)}</ul>'


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return text(", ".join(map(str, value)))
    return text(value)


def _queries(report: Report) -> Section | None:
    if not report.worst and not report.typical:
        return None
    labelled = any(query.average_precision is not None for query in report.worst + report.typical)
    body = ""
    if labelled:
        frames = ("Solid frame and ", "Dashed frame and ") if report.unit == "images" else ("", "")
        body += (
            f'<p class="legend">{frames[0]}✓: shares a label with the query. {frames[1]}✕: does not. '
            "The number is the Hamming distance.</p>"
        )
    else:
        body += '<p class="legend">The number is the Hamming distance.</p>'
    for heading, queries in (
        ("The five worst queries" if len(report.worst) == 5 else "The worst queries", report.worst),
        ("Across the range, best first" if labelled else "", report.typical),
    ):
        if queries:
            body += f"<h3>{heading}</h3>" if heading else ""
            body += "".join(map(_query if report.unit == "images" else _named_query, queries))
    if report.unit != "images":
        about = "Embeddings have no pictures: the names of the ten rows nearest to a query are shown instead."
        return Section("queries", "Queries", about, body)
    return Section(
        "queries",
        "Queries",
        "A query, then the ten images nearest to it; images at equal distance stand in the database’s order.",
        f'<div class="{"tiny" if report.tiny else ""}">{body}</div>',
    )


def _query(query: Query) -> str:
    named = query.classes or query.name
    ap = "" if query.average_precision is None else f"<br><span>AP</span> {number(query.average_precision, 3)}"
    near = []
    for rank, other in enumerate(query.nearest, 1):
        kind = {True: "right", False: "wrong", None: "plain"}[other.relevant]
        mark = {"right": "✓", "wrong": "✕"}.get(kind)
        said = {"right": ", shares a label", "wrong": ", shares no label"}.get(kind, "")
        alt = f"nearest {rank}: {other.classes or other.name}, distance {other.distance}{said}"
        badge = f'<span class="mark" aria-hidden="true">{mark}</span> ' if mark else ""
        near.append(
            f'<li class="{kind}"><div class="frame">{_picture(other.picture, alt)}</div>'
            f'<span class="label">{badge}<span class="d">{other.distance}</span></span>'
            f'<span class="label" title="{text(other.classes)}">{text(other.classes)}</span></li>'
        )
    return (
        f'<div class="query"><figure>{_picture(query.picture, f"query: {named}")}'
        f'<figcaption>{text(named)}{ap}</figcaption></figure><ol class="near">{"".join(near)}</ol></div>'
    )


def _named_query(query: Query) -> str:
    """A query and the rows nearest to it by their names: embeddings have no pictures."""
    labelled = query.average_precision is not None
    ap = f", AP {number(query.average_precision, 3)}" if query.average_precision is not None else ""
    classes = f" ({text(query.classes)})" if query.classes else ""
    header = ("nearest", "distance", *(("classes", "shares a label") if labelled else ()))
    rows = [
        (
            text(other.name),
            number(other.distance),
            *((text(other.classes), "✓" if other.relevant else "✕") if labelled else ()),
        )
        for other in query.nearest
    ]
    return table(f"{text(query.name)}{classes}{ap}", header, rows, kind="numbers")


def _picture(uri: str, alt: str) -> str:
    if not uri:
        return f'<div class="gone" role="img" aria-label="{text(alt)} (file gone or changed)">gone</div>'
    return f'<img src="{uri}" alt="{text(alt)}">'


def _footer() -> str:
    return (
        "<p>Made by <code>dvc repro report</code> from <code>metrics/</code>, <code>models/codes.npy</code>, "
        "<code>data/</code>, <code>dvc.lock</code> and, for published values, <code>ssdh/report/published.csv</code>. "
        "Method: Yang, Deng, Liu, Liu, Tao, <cite>Semantic Structure-based Unsupervised Deep Hashing</cite>, "
        "IJCAI 2018. Ties: McSherry and Najork, ECIR 2008.</p>"
    )
