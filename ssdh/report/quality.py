"""The section on retrieval quality: the run beside its baselines and published values, then every other measure.

Made from `metrics.json` and `baselines.json` alone; empty parts where a run without labels has none.
"""

from collections.abc import Mapping
from typing import Any

from ssdh.hashing.codes import width
from ssdh.report.contents import Report
from ssdh.report.markup import AS_BAR, Section, bar, number, table, text
from ssdh.report.why_hamming import why_hamming

MEASURES = {  # metrics with a number in their name, or in their keys, have it in place of {}
    "map_lowest": "mAP, the lowest of any order of ties",
    "map_highest": "mAP, the highest of any order of ties",
    "map_at": "mAP@{}",
    "map_by_bits": "mAP of the codes’ first {} bits",
    "map_stable": "mAP, ties in the database’s order",
    "map_without_train": "mAP, database without what was trained on",
    "precision_at": "precision@{}",
    "precision_radius": "precision in Hamming radius {}",
    "neighbor_recall_at": "recall of the {} nearest by features",
    "manifold_recall": "neighbours on the manifold found (needs no labels)",
    "queries_without_relevant": "queries without anything relevant",
    "unique_codes": "distinct codes in the database",
    "bytes_per_image": "bytes a code",
}
NEAREST_BY = {"cosine": "cosine", "dot": "inner product", "l2": "Euclidean distance"}  # by `evaluate.metric`

SAME_KIND, SAME_PICTURE = "Same kind?", "Same picture?"
SERVES = """<p>The two questions want different codes. <em>Same kind</em>: the recipes <code>manifold</code>,
<code>manifold_views</code> and <code>soft</code> learn from the graph of neighbours and draw {unit} of one kind
together, at the cost of the order among them. <em>Same picture</em>: the recipe <code>neighbors</code> learns which
{unit} are nearest, and ITQ keeps distances. <code>train.neighbor_weight</code> leads from the one to the other,
farthest with <code>recipe: manifold</code>.</p>"""


def quality(report: Report) -> Section | None:
    """MAP beside baselines and published values of the same protocol, then every other measure."""
    metrics = report.results.metrics
    body, about = "", f"What can be said without labels: which of the nearest {report.unit} the codes find."
    if "map" in metrics:
        about = "Mean average precision beside the baselines on the same features"
        caption = (
            f"mAP@{number(metrics['topk'])}; same queries, database and rule for ties in this run and the baselines"
        )
        if report.published:
            about += ", and beside published values with the same data set, counts, bits and cut-off"
            caption += "; outlined: published"
        about += "."
        body = f"<h3>{SAME_KIND}</h3>" + _ranked(caption, "mAP", _same_kind(report))
    body += _same_picture(report) + why_hamming(report) + _measures(report)
    return Section("quality", "Retrieval quality", about, body) if body else None


def baselines(report: Report, key: str) -> dict[str, dict[str, Any]]:
    """The baselines that have the metric `key`."""
    return {name: own for name, own in report.results.baselines.items() if isinstance(own, dict) and key in own}


def title(method: str, values: Mapping[str, Any]) -> str:
    """A baseline's name for people, as HTML."""
    return text(values.get("title", method))


Values = list[tuple[float, str, str, str]]  # of each method: value, class of its row, name, about


def _same_kind(report: Report) -> Values:
    """MAP of each method."""
    result: Values = [(report.results.metrics["map"], "own", "SSDH", "this run")]
    for method, values in baselines(report, "map").items():
        name = title(method, values)
        result.append((values["map"], "", name, text(values.get("about", ""))))
        if "map_centred" in values:
            result.append(
                (
                    values["map_centred"],
                    "",
                    f"{name}, centred",
                    f"{_nearest_by(report)} of the features less their mean",
                )
            )
    for row in report.published:
        about = f"published: {text(row['setting'])} ({text(row['source'])})"
        result.append((float(row["map"]), "published", text(row["method"]), about))
    return result


def _same_picture(report: Report) -> str:
    """The recall of each query's nearest by features, best first, and which recipe serves which question."""
    own = report.results.metrics.get("neighbor_recall_at")
    if not own:
        return ""
    nearest = min(own, key=int)
    size = width(int(report.results.metrics.get("bits", 0)))
    result: Values = [(own[nearest], "own", "SSDH", f"this run, {number(size)} bytes a code")]
    for method, values in baselines(report, "neighbor_recall_at").items():
        if method != "float":  # what is compared with
            about = f"{text(values.get('about', ''))}, {number(values.get('bytes_per_image', 0))} bytes a code"
            result.append((values["neighbor_recall_at"][nearest], "", title(method, values), about))
    count = number(int(nearest))
    caption = f"Share of a query’s {count} nearest by {_nearest_by(report)} of the features that are among its first "
    caption += f"{count} by code"
    shown = _ranked(caption, "recall", result)
    return f"<h3>{SAME_PICTURE}</h3>{shown}{SERVES.format(unit=report.unit)}"


def _nearest_by(report: Report) -> str:
    """The similarity of features that codes are compared with, in words."""
    return NEAREST_BY[str(report.parameters.get("evaluate", {}).get("metric", "cosine"))]


def _ranked(caption: str, metric: str, values: Values) -> str:
    """A table with a row a method, the highest value first."""
    best_first = sorted(values, key=lambda item: -item[0])
    rows = [
        (f'{name}<span class="note">{about}</span>', number(value), bar(value)) for value, _, name, about in best_first
    ]
    return table(
        caption, ("method", metric, AS_BAR), rows, kind="ranked", classes=[kind for _, kind, _, _ in best_first]
    )


def _measures(report: Report) -> str:
    """A table of the other metrics, with every baseline that has one of them."""
    own = _labelled(report.results.metrics)
    if not own:
        return ""
    others = {
        title(name, values): _labelled(values)
        for name, values in report.results.baselines.items()
        if isinstance(values, dict)
    }
    others = {name: values for name, values in others.items() if values.keys() & own.keys()}
    rows = [
        (label, *(number(values[label]) if label in values else "" for values in (own, *others.values())))
        for label in own
    ]
    header = ["measure", "SSDH", *others]
    source = "From <code>metrics/metrics.json</code>"
    if others:
        source += " and <code>metrics/baselines.json</code>"
    return "<h3>Further measures</h3>" + table(source, header, rows, kind="numbers")


def _labelled(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that MEASURES names, by their labels as HTML; `precision_at: {10: …}` gives "precision@10"."""
    result: dict[str, float] = {}
    for key, label in MEASURES.items():
        if isinstance(metrics.get(key), Mapping):
            result |= {label.format(number(int(n)) if n.isdigit() else n): value for n, value in metrics[key].items()}
        elif key in metrics:
            result[label] = metrics[key]
        else:
            named = [name for name in metrics if name.startswith(f"{key}_")]
            result |= {label.format(text(name.removeprefix(f"{key}_"))): metrics[name] for name in named}
    return result
