"""The other sections with numbers: structure, training, curves, re-ranking, bits and classes.

Each is made from the files of `metrics/` alone and is empty where they are (a run without labels).
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ssdh.core.arrays import Float64
from ssdh.report import charts
from ssdh.report.charts import Line
from ssdh.report.contents import Report
from ssdh.report.inputs import numbers
from ssdh.report.markup import AS_BAR, Section, bar, facts, figure, number, percent, table, text
from ssdh.report.quality import baselines

MOST_LINES = 3  # baselines in a chart, the best of them
MANY_CLASSES = 24  # more stand in two columns where there is room


def structure(report: Report) -> Section | None:
    """The distance histogram with its fit and thresholds; how many pairs are labelled, and how pure."""
    fit, distances, pairs = report.results.structure, report.results.distances, report.results.pairs
    if not fit:
        return None
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
        "from."
    )
    title = "Histogram of pair distances with fitted half Gaussians and thresholds"
    return Section(
        "structure", "Semantic structure", about, figure(chart, title, caption) + "<h3>Pseudo-labels</h3>" + purity
    )


LABELS = {"similar": "similar (+1)", "dissimilar": "dissimilar (−1)"}


def _unknown_weight(report: Report) -> float:
    """The weight of the pairs between the thresholds in this run's loss."""
    weight = report.parameters.get("train", {}).get("unknown_weight")
    return float(weight) if isinstance(weight, int | float) else 0.0


def _purity(pairs: Mapping[str, float], key: str) -> str:
    name = f"{key}_precision"
    return percent(pairs[name]) if name in pairs else "–"


def training(report: Report) -> Section:
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
        body = "<p>Nothing was trained: the model of <code>train.init_file</code> was kept.</p>"
        return Section("training", "Training", "<code>train.epochs</code> is 0.", body)
    about = f"Loss over the passes through the train {report.unit}"
    about += ", and validation mAP." if curve else "; no validation was asked for (<code>train.eval_interval</code>)."
    return Section("training", "Training", about, f'<div class="pair">{body}</div>')


def _last(rows: pd.DataFrame, x: str, y: str, name: str) -> str:
    if rows.empty:
        return ""
    return f"{name} at {x} {rows[x].iloc[-1]}: {number(float(rows[y].iloc[-1]))}."


def curves(report: Report) -> Section | None:
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
    if not body:
        return None
    about = "SSDH, the features and the best baselines on them."
    return Section("curves", "Precision and recall", about, f'<div class="pair">{body}</div>')


def _compared(report: Report) -> list[tuple[str, str, str]]:
    """(style of its line, method, name) of the float features and of the baselines with the highest mAP."""
    known = baselines(report, "map")
    best = sorted((method for method in known if method != "float"), key=lambda method: -known[method]["map"])
    chosen = [(f"other_{place}", method) for place, method in enumerate(best[:MOST_LINES])]
    if "float" in known:
        chosen.insert(0, ("float", "float"))
    return [(style, method, str(known[method].get("title", method))) for style, method in chosen]


def rerank(report: Report) -> Section | None:
    """What a shortlist by code is worth once the float features order it, by its mean length."""
    if not (own := report.results.metrics.get("rerank")):
        return None
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
        lines = [Line(style, name, *_by_length(reranked, key)) for style, name, reranked in methods]
        exact = report.results.baselines.get("float", {}).get("precision_at", {}).get("10")
        if key == "precision_at_10" and exact is not None:
            lengths = np.unique(np.concatenate([line.x for line in lines]))
            lines.append(Line("float", "float", lengths, np.full(len(lengths), exact)))
        chart = charts.lines(f"rerank-{key}", lines, x_label=f"{report.unit} shortlisted", y_label=label, marker=True)
        body += figure(chart, f"{label} by length of the shortlist", caption)
    keys = {
        "shortlist": f"{report.unit} in it",
        "float_recall_at_10": "recall of the 10 nearest by features",
        "precision_at_10": "precision@10",
        "map": "mAP",
    }
    measured = {key for _, _, reranked in methods for values in reranked.values() for key in values}
    keys = {key: label for key, label in keys.items() if key in measured}  # without labels the last two are not
    digits = {"shortlist": 1}
    rows = [
        (
            f"{text(name)}, {number(int(size))}",
            *(number(values[key], digits.get(key, 4)) if key in values else "" for key in keys),
        )
        for _, name, reranked in methods
        for size, values in reranked.items()
    ]
    caption = f"After re-ranking. All {report.unit} that tie with the last one are in the shortlist."
    shown = table(caption, ("method, shortlist", *keys.values()), rows, kind="numbers")
    about = "Search in two stages: codes give a shortlist, the exact similarity of the features orders it."
    return Section("rerank", "Re-ranking", about, f'<div class="pair">{body}</div>{shown}')


def _by_length(reranked: Mapping[str, Mapping[str, float]], key: str) -> tuple[Float64, Float64]:
    """Mean lengths of the shortlists and the metric `key` after each, where there is one."""
    points = [(values["shortlist"], values[key]) for values in reranked.values() if key in values]
    lengths, metrics = np.array(points, np.float64).reshape(-1, 2).T
    return lengths, metrics


def codes(report: Report) -> Section | None:
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
    if entries:
        body += "<h3>In numbers</h3>" + facts(entries)
    return Section("codes", "Use of the bits", about, body) if body else None


def classes(report: Report) -> Section | None:
    """Mean AP of the queries of each class."""
    names = list(report.results.data.get("classes", []))
    precision = numbers(report.results.per_query, "ap")
    if not len(precision):
        return None
    mean: list[tuple[float, int, str]] = []
    for column, present in enumerate(report.query_labels.T != 0):
        if present.any():
            name = str(names[column]) if column < len(names) else str(column)
            mean.append((float(precision[present].mean()), int(present.sum()), name))
    mean.sort(key=lambda item: (-item[0], item[2]))
    rows = [(text(name), number(value), bar(value), number(count)) for value, count, name in mean]
    about = "Which classes the codes keep together, and which they mix up."
    if (report.query_labels.sum(axis=1) > 1).any():
        about += " A query with several labels counts in each."
    half = -(-len(rows) // 2) if len(rows) > MANY_CLASSES else len(rows)
    header = ("class", "AP", AS_BAR, "queries")
    body = table("Mean AP of the queries of a class, best first", header, rows[:half], kind="ranked classes")
    if rows[half:]:
        body += table("Continued", header, rows[half:], kind="ranked classes")
        body = f'<div class="pair">{body}</div>'
    return Section("classes", "Classes", about, body)
