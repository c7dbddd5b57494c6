"""The sections with numbers: quality, structure, training, curves, bits and classes.

Each is made from the files of `metrics/` alone and is empty where they are (a run without labels).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ssdh.report import charts
from ssdh.report.charts import Line
from ssdh.report.contents import Report
from ssdh.report.inputs import Floats, numbers
from ssdh.report.markup import bar, facts, figure, number, percent, section, table, text

MEASURES = {  # metrics with a number in their name, or in their keys, have it in place of {}
    "map_lowest": "mAP, the lowest of any order of ties",
    "map_highest": "mAP, the highest of any order of ties",
    "map_at": "mAP@{}",
    "map_stable": "mAP, ties in the database’s order",
    "map_without_train": "mAP, database without train images",
    "precision_at": "precision@{}",
    "precision_radius": "precision in Hamming radius {}",
    "neighbor_recall_at": "recall of the {} nearest by features",
    "manifold_recall": "neighbours on the manifold found (needs no labels)",
    "queries_without_relevant": "queries without a relevant image",
    "unique_codes": "distinct codes in the database",
    "bytes_per_image": "bytes an image",
}

SAME_KIND, SAME_PICTURE = "Same kind?", "Same picture?"
SERVES = """<p>The two questions want different codes. <em>Same kind</em>: the recipes <code>manifold</code> and
<code>soft</code> learn from the graph of neighbours and draw images of one kind together, at the cost of the order
among them. <em>Same picture</em>: codes that keep distances, such as ITQ’s, find more of an image’s nearest.</p>"""
MOST_LINES = 3  # baselines in a chart, the best of them
MANY_CLASSES = 24  # more stand in two columns where there is room
AS_BAR = '<span class="sr">as a bar</span>'


def quality(report: Report) -> str:
    """MAP beside baselines and published values of the same protocol, then every other measure."""
    metrics = report.results.metrics
    body, about = "", "What can be said without labels: which of an image’s nearest neighbours the codes find."
    if "map" in metrics:
        about = "Mean average precision beside the baselines on the same features"
        about += ", and beside published values with the same data set, counts, bits and cut-off" * bool(
            report.published
        )
        about += "."
        caption = (
            f"mAP@{number(metrics['topk'])}; same queries, database and rule for ties in this run and the baselines"
        )
        caption += "; outlined: published" * bool(report.published)
        body = f"<h3>{SAME_KIND}</h3>" + table(caption, ("method", "mAP", AS_BAR), _same_kind(report), kind="ranked")
    return section("quality", "Retrieval quality", about, body + _same_picture(report) + _measures(report))


def baselines(report: Report, key: str) -> dict[str, dict[str, Any]]:
    """The baselines that have the metric `key`."""
    return {name: own for name, own in report.results.baselines.items() if isinstance(own, dict) and key in own}


def title(method: str, values: Mapping[str, Any]) -> str:
    """A baseline's name for people, as HTML."""
    return text(values.get("title", method))


def _about(values: Mapping[str, Any]) -> str:
    """What a baseline does and what it is given, as HTML."""
    return text("; ".join(values[name] for name in ("about", "tier") if values.get(name)))


Ranked = list[tuple[float, str, str, str]]  # value, mark, name, about


def _same_kind(report: Report) -> list[tuple[str, ...]]:
    """MAP of each method, best first."""
    found: Ranked = [(report.results.metrics["map"], "own", "SSDH", "this run; images only")]
    for method, values in baselines(report, "map").items():
        name = title(method, values)
        found.append((values["map"], "", name, _about(values)))
        if "map_centred" in values:
            found.append((values["map_centred"], "", f"{name}, centred", "cosine of the features less their mean"))
    for row in report.published:
        about = f"published: {text(row['setting'])} ({text(row['source'])})"
        found.append((float(row["map"]), "published", text(row["method"]), about))
    return _rows(found)


def _same_picture(report: Report) -> str:
    """The recall of each query's nearest by features, best first, and which recipe serves which question."""
    own = report.results.metrics.get("neighbor_recall_at")
    if not own:
        return ""
    nearest = min(own, key=int)
    found: Ranked = [(own[nearest], "own", "SSDH", "this run")]
    for method, values in baselines(report, "neighbor_recall_at").items():
        if method != "float":  # what is compared with
            about = f"{text(values.get('about', ''))}, {number(values.get('bytes_per_image', 0))} bytes an image"
            found.append((values["neighbor_recall_at"][nearest], "", title(method, values), about))
    count = number(int(nearest))
    caption = f"Share of a query’s {count} nearest by features that are among its first {count} by code"
    shown = table(caption, ("method", "recall", AS_BAR), _rows(found), kind="ranked")
    return f"<h3>{SAME_PICTURE}</h3>{shown}{SERVES}"


def _rows(found: Ranked) -> list[tuple[str, ...]]:
    """One row a method, the highest value first."""
    result = sorted(found, key=lambda item: -item[0])
    return [
        (f"class:{mark}", f'{name}<span class="note">{about}</span>', number(value), bar(value))
        for value, mark, name, about in result
    ]


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
    source += " and <code>metrics/baselines.json</code>" * bool(others)
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


def structure(report: Report) -> str:
    """The distance histogram with its fit and thresholds; how many pairs are labelled, and how pure."""
    fit, distances, pairs = report.results.structure, report.results.distances, report.results.pairs
    if not fit:
        return ""
    chart = charts.distance_histogram(
        numbers(distances, "distance"),
        numbers(distances, "density"),
        numbers(distances, "fit"),
        mode=fit["mode"],
        similar=fit["threshold_similar"],
        dissimilar=fit["threshold_dissimilar"],
    )
    caption = (
        f"Distances of {number(fit['num_pairs'])} pairs (area) and the two half Gaussians that meet at the mode "
        f"(line): σ = {number(fit['sigma_left'])} on the left, {number(fit['sigma_right'])} on the right."
    )
    labelled = fit["fraction_similar"] + fit["fraction_dissimilar"]
    rows = [(name, percent(fit[f"fraction_{key}"]), _purity(pairs, key)) for key, name in LABELS.items()]
    weight = _unknown_weight(report)
    treated = f"regressed to 0 at weight {weight:g}" if weight else "left out"
    rows.append((f"between the thresholds (0): {treated}", percent(1 - labelled), ""))
    about_purity, header = "There are no true labels to say how pure they are.", ("pairs", "share of all", "pure")
    if pairs:
        about_purity = "Pure: the share that the true labels, which the method never sees, agree with."
    shown = len(header) if pairs else len(header) - 1
    purity = table(about_purity, header[:shown], [row[:shown] for row in rows], kind="numbers")
    about = (
        f"{percent(labelled)} of the pairs of train {report.unit} lie beyond a threshold and become labels to learn "
    )
    about += "from."
    title = "Histogram of pair distances with fitted half Gaussians and thresholds"
    return section(
        "structure", "Semantic structure", about, figure(chart, title, caption) + "<h3>Pseudo-labels</h3>" + purity
    )


LABELS = {"similar": "similar (+1)", "dissimilar": "dissimilar (−1)"}


def _unknown_weight(report: Report) -> float:
    """The weight of the pairs between the thresholds in this run's loss."""
    found = report.parameters.get("train", {}).get("unknown_weight")
    return float(found) if isinstance(found, int | float) else 0.0


def _purity(pairs: Mapping[str, float], key: str) -> str:
    name = f"{key}_precision"
    return percent(pairs[name]) if name in pairs else "–"


def training(report: Report) -> str:
    """Loss by epoch, and the validation curve where there is one."""
    train, validation = report.results.train, report.results.validation
    loss = charts.lines(
        "loss",
        [Line("ssdh", "loss", numbers(train, "epoch"), numbers(train, "loss"))],
        x_label="epoch",
        y_label="mean loss of an epoch",
        percent=False,
    )
    curve = charts.lines(
        "validation",
        [Line("ssdh", "mAP", numbers(validation, "iteration"), numbers(validation, "map"))],
        x_label="iteration",
        y_label="mAP of validation queries",
        percent=False,
        from_zero=False,
        marker=True,
    )
    body = figure(loss, "Loss by epoch", _last(train, "epoch", "loss", "Loss"))
    body += figure(
        curve,
        "Validation mAP by iteration",
        _last(validation, "iteration", "map", "mAP") + " Of queries drawn from the database; it chooses nothing.",
    )
    if not loss:
        about = (
            "Nothing was trained: the model of <code>train.init_file</code> was kept (<code>train.epochs</code> is 0)."
        )
        return section("training", "Training", about, "")
    about = f"Loss over the passes through the train {report.unit}"
    about += ", and validation mAP." if curve else "; no validation was asked for (<code>train.eval_interval</code>)."
    return section("training", "Training", about, f'<div class="pair">{body}</div>' if body else "")


def _last(rows: pd.DataFrame, x: str, y: str, name: str) -> str:
    if rows.empty:
        return ""
    return f"{name} at {x} {rows[x].iloc[-1]}: {number(float(rows[y].iloc[-1]))}."


def curves(report: Report) -> str:
    """Precision by recall and by cut-off, beside the baselines."""
    results = report.results
    recall = [Line("ssdh", "SSDH", numbers(results.pr_curve, "recall"), numbers(results.pr_curve, "precision"))]
    cutoff = [Line("ssdh", "SSDH", numbers(results.precision_at_n, "n"), numbers(results.precision_at_n, "precision"))]
    for style, method, name in _compared(report):
        rows = results.baselines_curves[results.baselines_curves["method"] == method]
        of_recall, of_n = rows[rows["curve"] == "pr"], rows[rows["curve"] == "precision_at_n"]
        recall.append(Line(style, name, numbers(of_recall, "recall"), numbers(of_recall, "precision")))
        cutoff.append(Line(style, name, numbers(of_n, "n"), numbers(of_n, "precision")))
    left = charts.lines("recall", recall, x_label="recall", y_label="precision")
    right = charts.lines("cutoff", cutoff, x_label=f"{report.unit} returned, N", y_label="precision@N")
    body = figure(left, "Precision by recall", "Each point is a Hamming radius, pairs pooled over all queries.")
    body += figure(right, f"Precision of the first N {report.unit}", "Mean over the queries, expectation over ties.")
    about = "SSDH, the features and the best baselines on them."
    return section("curves", "Precision and recall", about, f'<div class="pair">{body}</div>' if body else "")


def _compared(report: Report) -> list[tuple[str, str, str]]:
    """(style of its line, method, name) of the float features and of the baselines with the highest mAP."""
    known = baselines(report, "map")
    best = sorted((method for method in known if method != "float"), key=lambda method: -known[method]["map"])
    chosen = [("float", "float")] * ("float" in known) + [
        (f"other_{place}", method) for place, method in enumerate(best[:MOST_LINES])
    ]
    return [(style, method, str(known[method].get("title", method))) for style, method in chosen]


def rerank(report: Report) -> str:
    """What a shortlist by code is worth once the float features order it, by its mean length."""
    if not (own := report.results.metrics.get("rerank")):
        return ""
    known = baselines(report, "rerank")
    best = sorted(known, key=lambda name: -max(at["float_recall_at_10"] for at in known[name]["rerank"].values()))
    methods = [("ssdh", "SSDH", own)]
    methods += [
        (f"other_{place}", str(known[name].get("title", name)), known[name]["rerank"])
        for place, name in enumerate(best[:MOST_LINES])
    ]
    charted = {
        "float_recall_at_10": ("share of the ten nearest by features", "The share that the shortlist holds."),
        "precision_at_10": ("precision@10", "After re-ranking; float: exact search by the features."),
    }
    body = ""
    for key, (label, caption) in charted.items():
        lines = [Line(style, name, *_by_length(found, key)) for style, name, found in methods]
        exact = report.results.baselines.get("float", {}).get("precision_at", {}).get("10")
        if key == "precision_at_10" and exact is not None:
            lengths = np.unique(np.concatenate([line.x for line in lines]))
            lines.append(Line("float", "float", lengths, np.full(len(lengths), exact)))
        chart = charts.lines(f"rerank-{key}", lines, x_label="images shortlisted", y_label=label, marker=True)
        body += figure(chart, f"{label} by length of the shortlist", caption)
    keys = {
        "shortlist": "images in it",
        "float_recall_at_10": "recall of the 10 nearest by features",
        "precision_at_10": "precision@10",
        "map": "mAP",
    }
    rows = [
        (f"{text(name)}, {number(int(size))}", *(number(values[key]) if key in values else "" for key in keys))
        for _, name, found in methods
        for size, values in found.items()
    ]
    caption = "After re-ranking. All images that tie with the last one are in the shortlist."
    shown = table(caption, ("method, shortlist", *keys.values()), rows, kind="numbers")
    about = "Search in two stages: codes give a shortlist, the exact similarity of the features orders it."
    return section("rerank", "Re-ranking", about, f'<div class="pair">{body}</div>{shown}')


def _by_length(found: Mapping[str, Mapping[str, float]], key: str) -> tuple[Floats, Floats]:
    """Mean lengths of the shortlists and the metric `key` after each, where there is one."""
    points = [(values["shortlist"], values[key]) for values in found.values() if key in values]
    lengths, metrics = np.array(points, np.float64).reshape(-1, 2).T
    return lengths, metrics


def codes(report: Report) -> str:
    """How the codes use their bits."""
    metrics = report.results.metrics
    names = {
        "bit_balance": "imbalance of the bits",
        "bit_correlation": "correlation of two bits",
        "unique_codes": "distinct codes",
    }
    entries = [(label, number(metrics[key])) for key, label in names.items() if key in metrics]
    if "database" in report.results.data:
        entries.append((f"{report.unit} in the database", number(report.results.data["database"])))
    body = figure(
        charts.bit_balance(report.bit_shares),
        "Share of +1 of each bit",
        "A bit that splits the database in halves tells the most.",
    )
    about = (
        "For imbalance (mean over bits of the absolute mean) and correlation (mean absolute value) 0 is best, 1 worst."
    )
    return section(
        "codes", "Use of the bits", about, body + "<h3>In numbers</h3>" + facts(entries) if entries else body
    )


def classes(report: Report) -> str:
    """Mean AP of the queries of each class."""
    names = list(report.results.data.get("classes", []))
    precision = numbers(report.results.per_query, "ap")
    if not len(precision):
        return ""
    mean: list[tuple[float, int, str]] = []
    for column, present in enumerate(report.query_labels.T != 0):
        if present.any():
            name = str(names[column]) if column < len(names) else str(column)
            mean.append((float(precision[present].mean()), int(present.sum()), name))
    mean.sort(key=lambda item: (-item[0], item[2]))
    rows = [(text(name), number(value), bar(value), number(count)) for value, count, name in mean]
    about = "Which classes the codes keep together, and which they mix up."
    about += " A query with several labels counts in each." * bool((report.query_labels.sum(axis=1) > 1).any())
    half = -(-len(rows) // 2) if len(rows) > MANY_CLASSES else len(rows)
    header = ("class", "AP", AS_BAR, "queries")
    body = table("Mean AP of the queries of a class, best first", header, rows[:half], kind="ranked classes")
    if rows[half:]:
        body += table("Continued", header, rows[half:], kind="ranked classes")
        body = f'<div class="pair">{body}</div>'
    return section("classes", "Classes", about, body)
