"""The report: the very numbers of the files, nothing loaded, nothing unescaped, and every kind of run has its page."""

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from ssdh.core.errors import DataError
from ssdh.core.params import read_params
from ssdh.report import charts, sections
from ssdh.report.collect import PUBLISHED, collect, parameters
from ssdh.report.contents import Report
from ssdh.report.gallery import nearest, worst_and_typical
from ssdh.report.inputs import Results, published_rows, read_results
from ssdh.report.page import render
from ssdh.report.why_hamming import SPEED
from tests.helpers.small_run import BASELINES, HOSTILE, METRICS, PAIRS, SPLIT, STRUCTURE, SmallRun

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Parsed(HTMLParser):
    """A page taken apart; raises where a tag is not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: set[float] = set()
        self.words = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "data":
            self.numbers.add(float(dict(attrs)["value"] or "nan"))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words += data + "\n"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def make_page(run: SmallRun) -> str:
    return render(collect(run.folder, run.params))


@pytest.fixture
def run(tmp_path: Path, project: Path) -> SmallRun:
    return SmallRun(tmp_path / "run", project)


def leaves(value: Any) -> set[float]:
    """Every number of nested dictionaries, with six significant digits."""
    if isinstance(value, dict):
        return set().union(*map(leaves, value.values()))
    return {float(f"{value:.6g}")} if isinstance(value, int | float) else set()


def test_the_page_holds_the_very_numbers_of_the_files(run: SmallRun) -> None:
    page = Parsed(make_page(run))
    thresholds = leaves({name: STRUCTURE[name] for name in ("threshold_similar", "threshold_dissimilar", "mode")})
    expected = leaves(METRICS) | leaves(BASELINES) | leaves(PAIRS) | (leaves(STRUCTURE) - thresholds)
    assert expected - page.numbers == {12.0}  # bits are words of the title
    assert {0.432199, 0.345612} <= page.numbers  # the last loss and validation mAP
    for text in ("similar < 0.0163", "dissimilar > 0.0662", "mode 0.0398"):
        assert text in page.words  # written into the chart
    of_class_0 = (0.31 + 0.05 + 0.77 + 0.11) / 4  # the queries of rows 3, 0, 9, 12
    assert any(abs(result - of_class_0) < 1e-12 for result in page.numbers)


def test_of_a_kept_model_the_page_says_that_nothing_was_trained(run: SmallRun) -> None:
    assert "Nothing was trained" not in make_page(run)
    (run.folder / "metrics/train.csv").write_text("epoch,iteration,loss\n")
    (run.folder / "metrics/validation.csv").write_text("iteration,map\n")
    page = make_page(run)
    assert "Nothing was trained: the model of <code>train.init_file</code> was kept" in page
    assert 'href="#training"' in page


def test_parameters_are_said_to_be_those_of_the_pages_making(run: SmallRun) -> None:
    """The stage tracks few of them: another learning rate alone makes no new page before there are new results."""
    words = " ".join(Parsed(make_page(run)).words.split())
    assert "The values of params.yaml when this page was made." in words


def test_nothing_is_loaded_and_no_script_runs(run: SmallRun) -> None:
    page = make_page(run)
    parsed = Parsed(page)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in parsed.tags}
    for _, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "srcset", "poster", "data"):
            if name in attributes:
                assert str(attributes[name]).startswith(("data:image/", "#")), attributes
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert "@import" not in page
    assert "://" not in page


def test_a_page_is_sound_for_readers_by_ear(run: SmallRun) -> None:
    page = Parsed(make_page(run))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"][1:] for attributes in page.all("a")} <= set(ids)  # type: ignore[index]
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))
    assert len(page.all("h1")) == 1
    charts_found = [attributes for attributes in page.all("div") if attributes.get("class") == "chart"]
    assert len(charts_found) == 8
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in charts_found)
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("caption")) == len(page.all("table"))


def test_hostile_names_are_text(run: SmallRun, tmp_path: Path) -> None:
    run.as_files(tmp_path / "photos", np.zeros((21, 9, 9, 3), np.uint8))
    run.change("metrics", dataset=HOSTILE)
    page = make_page(run)
    parsed = Parsed(page)
    assert HOSTILE in parsed.words
    assert "<script" not in page
    assert all(str(attributes["src"]).startswith("data:") for attributes in parsed.all("img"))
    alts = [str(attributes["alt"]) for attributes in parsed.all("img")]
    assert any(HOSTILE in alt for alt in alts)


def test_unlabelled_photos_are_called_by_their_file_names(tmp_path: Path, project: Path) -> None:
    run = SmallRun(tmp_path / "run", project, labelled=False)
    names = [f"{row}/<b>&\"'{row}.jpg" for row in range(21)]
    run.as_files(tmp_path / "photos", np.zeros((21, 9, 9, 3), np.uint8), names=names)
    page = Parsed(make_page(run))
    assert [f"<b>&\"'{row}.jpg" for row in SPLIT.query] == re.findall(r"<b>&\"'\d+\.jpg", page.words)
    assert any(f"<b>&\"'{SPLIT.database[0]}.jpg" in str(attributes["alt"]) for attributes in page.all("img"))
    assert not page.all("b")


def test_right_and_wrong_are_those_of_a_brute_force(run: SmallRun) -> None:
    """Ten nearest of each of the seven queries: here the whole database."""
    page = Parsed(make_page(run))
    marks = [attributes["class"] for attributes in page.all("li") if attributes.get("class") in ("right", "wrong")]
    right = sum(int(run.labels[q] @ run.labels[d]) for q in SPLIT.query for d in SPLIT.database)
    assert marks.count("right") == right
    assert marks.count("wrong") == 7 * 10 - right
    assert page.words.count("✓") == right + 1  # and the legend
    assert page.words.count("✕") == 7 * 10 - right + 1


@pytest.mark.parametrize("bits", [1, 12, 65])
def test_nearest_are_those_of_a_brute_force_with_ties_in_the_databases_order(bits: int) -> None:
    rng = np.random.default_rng(bits)
    codes = rng.choice([-1, 1], size=(300, bits))
    database = rng.permutation(np.arange(1, 300))
    rows, distances = nearest(np.packbits(codes == 1, axis=1), 0, database, 10)
    result = [(int((codes[0] != codes[row]).sum()), place, row) for place, row in enumerate(database)]
    assert [(d, row) for d, _, row in sorted(result)[:10]] == list(zip(distances.tolist(), rows.tolist(), strict=True))


def test_the_five_worst_queries_come_worst_first_and_no_query_twice() -> None:
    precisions = np.array([0.5, 0.1, 0.9, 0.2, 0.0, 0.3, 0.8, 0.4, 0.6, 0.7, 1.0, 0.95])
    worst, typical = worst_and_typical(precisions)
    assert worst == [4, 1, 3, 5, 7]
    assert typical[0] == 10  # the best
    assert typical[-1] == 0  # the worst of the rest
    assert len({*worst, *typical}) == 10
    assert worst_and_typical(np.array([0.3])) == ([0], [])


def test_without_labels_the_parts_that_need_none_are_there(tmp_path: Path, project: Path) -> None:
    page = Parsed(make_page(SmallRun(tmp_path / "run", project, labelled=False)))
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == ["run", "quality", "structure", "training", "codes", "queries"]
    assert METRICS["neighbor_recall_at"]["10"] in page.numbers
    assert METRICS["map"] not in page.numbers
    classes = {attributes.get("class") for attributes in page.all("li")}
    assert not classes & {"right", "wrong"}
    assert len(page.all("img")) == 7 * 11
    assert "no labels" in page.words
    assert "nan" not in page.words.lower().split()


@pytest.mark.parametrize("bits", [1, 128])
def test_short_and_long_codes_have_a_page(tmp_path: Path, project: Path, bits: int) -> None:
    run = SmallRun(tmp_path / "run", project, bits=bits)
    metrics = {key: value for key, value in run.metrics.items() if bits > 1 or key != "bit_correlation"}
    (run.folder / "metrics/metrics.json").write_text(json.dumps(metrics))
    page = Parsed(make_page(run))
    assert f"{bits}-bit codes" in page.words
    assert (METRICS["bit_correlation"] in page.numbers) == (bits > 1)


def test_published_values_stand_beside_the_same_protocol_only(
    run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.change("metrics", dataset="cifar10", bits=12, topk=5000)
    run.change("data", query=1000, train=5000)
    assert "TreezzZ" not in Parsed(make_page(run)).words  # not at 12 bits
    published = tmp_path / "published.csv"
    text = PUBLISHED.read_text(encoding="utf-8")
    published.write_text(text.replace("cifar10,16,", "cifar10,12,"), encoding="utf-8")
    monkeypatch.setattr("ssdh.report.collect.PUBLISHED", published)
    page = Parsed(make_page(run))
    assert 0.2511 in page.numbers
    assert not {0.2414, 0.2695, 0.2871} & page.numbers
    assert "TreezzZ/SSDH_PyTorch" in page.words
    results = read_results(run.folder / "metrics")
    assert len(published_rows(published, results)) == 1
    for change in ({"topk": 1000}, {"dataset": "flickr25k"}, {"bits": 16}):
        assert published_rows(published, replace(results, metrics=results.metrics | change)) == []
    for change in ({"train": 4000}, {"query": 500}):
        assert published_rows(published, replace(results, data=results.data | change)) == []


def test_published_values_are_those_of_the_source(project: Path) -> None:
    text = (project / "ssdh/report/published.csv").read_text().splitlines()
    values = [(row.split(",")[1], int(row.split(",")[2]), float(row.split(",")[6])) for row in text[1:]]
    assert values == [
        ("cifar10", 16, 0.2511), ("cifar10", 32, 0.2414), ("cifar10", 64, 0.2695), ("cifar10", 128, 0.2871),
        ("flickr25k", 16, 0.7737), ("flickr25k", 32, 0.7461), ("flickr25k", 64, 0.7583), ("flickr25k", 128, 0.7415),
    ]  # fmt: skip


def test_views_that_were_not_made_are_not_listed(project: Path) -> None:
    params = read_params(project / "params.yaml")
    assert parameters(params)["views"] == {"none": "random weights see little in them"}
    params["datasets"]["digits"]["images"]["weights"] = "imagenet"
    assert parameters(params)["views"]["count"] == 4


def test_random_weights_are_called_a_smoke_run(run: SmallRun) -> None:
    assert "A smoke run." in Parsed(make_page(run)).words
    run.params["datasets"]["digits"]["images"]["weights"] = "imagenet"
    assert "smoke" not in Parsed(make_page(run)).words


def test_photos_that_are_gone_or_changed_leave_a_gap_and_the_page_stays_small(run: SmallRun, tmp_path: Path) -> None:
    """Noise is the worst case of JPEG."""
    photos = np.random.default_rng(0).integers(0, 256, (21, 300, 400, 3), np.uint8)
    run.as_files(tmp_path / "photos", photos)
    (tmp_path / "photos/photo 03.jpg").unlink()
    (tmp_path / "photos/photo 20.jpg").write_bytes((tmp_path / "photos/photo 19.jpg").read_bytes())
    page = make_page(run)
    gone = [attributes for attributes in Parsed(page).all("div") if attributes.get("class") == "gone"]
    assert len(gone) == 1 + 7  # row 3 is a query, row 20 near all seven
    assert len(page) < 3_000_000


def test_the_same_files_give_the_same_page(run: SmallRun) -> None:
    assert make_page(run) == make_page(run)


def test_files_of_different_runs_are_refused(run: SmallRun) -> None:
    (run.folder / "metrics/per_query.csv").write_text("row,ap\n5,0.3\n")
    with pytest.raises(DataError, match=r"per_query\.csv is of another split than data/split: run `dvc repro`"):
        make_page(run)


def test_broken_metrics_are_named(run: SmallRun) -> None:
    (run.folder / "metrics/pairs.json").write_text("{")
    with pytest.raises(DataError, match=r"pairs\.json is not JSON .*: run `dvc repro`"):
        make_page(run)


# --- what ran ---------------------------------------------------------------------------------------------------------


def write_lock(run: SmallRun) -> None:
    lock = {
        "stages": {
            "encode": {
                "deps": [
                    {"path": "ssdh/hashing", "md5": "c0de" * 8},
                    {"path": "features/features.npy", "md5": "f" * 32},
                ],
                "outs": [{"path": "models/codes.npy", "md5": "abcdef0123456789" * 2}],
            },
            "report": {"outs": [{"path": "metrics/report.html", "md5": "0" * 32}]},
        }
    }
    (run.folder / "dvc.lock").write_text(yaml.safe_dump(lock))


def test_hashes_of_codes_and_code_are_those_of_the_lock_file(run: SmallRun) -> None:
    write_lock(run)
    words = Parsed(make_page(run)).words
    assert "abcdef012345" in words
    assert "c0dec0dec0de" in words
    assert "ffffffffffff" not in words  # features are no code


def test_without_a_lock_file_there_is_still_a_page(run: SmallRun) -> None:
    assert "Code with its hashes" not in Parsed(make_page(run)).words


# --- charts -----------------------------------------------------------------------------------------------------------


def test_charts_have_no_colour_of_their_own() -> None:
    """Every colour is a variable of the page, which light, dark and print set."""
    x = np.linspace(0, 1, 2000)
    chart = charts.distance_histogram(x, np.ones(2000), np.ones(2000), mode=0.5, similar=0.2, dissimilar=0.8)
    assert chart is not None
    assert re.findall(r"#[0-9a-fA-F]{6}|\bblack\b|\bwhite\b", chart) == []
    assert len(chart) < 40_000
    for variable in ("--similar", "--dissimilar", "--ink", "--fill"):
        assert f"var({variable})" in chart


@pytest.mark.parametrize("bins", [2, 160, 161, 9_973])
def test_a_histogram_of_many_bins_keeps_its_area(bins: int) -> None:
    density = np.random.default_rng(bins).random(bins)
    centres = np.linspace(0.1, 0.9, bins)
    edges, heights = charts.coarser(centres, density)
    width = centres[1] - centres[0]
    assert len(heights) <= 160
    assert np.isclose((heights * np.diff(edges)).sum(), density.sum() * width)
    assert np.isclose(edges[0], 0.1 - width / 2)
    assert np.isclose(edges[-1], 0.9 + width / 2)


def test_a_chart_without_points_is_none() -> None:
    nothing = np.empty(0)
    assert charts.distance_histogram(nothing, nothing, nothing, mode=0, similar=0, dissimilar=0) is None
    empty = [
        charts.Line("ssdh", "SSDH", nothing, nothing),
        charts.Line("itq", "ITQ", np.array([1.0]), np.array([np.nan])),
    ]
    assert charts.lines("x", empty, x_label="", y_label="") is None
    assert charts.bit_balance(nothing) is None


def test_every_class_of_many_is_listed_once() -> None:
    labels = np.eye(31, dtype=np.uint8)
    labels[:, 0] = 1  # every query is of class 0 too
    results = Results(
        data={"classes": [f"c{i}" for i in range(31)]}, per_query=pd.DataFrame({"ap": [i / 31 for i in range(31)]})
    )
    section = sections.classes(Report(results, query_labels=labels))
    assert section is not None
    page = Parsed(section.html())
    assert sorted(re.findall(r"^c\d+$", page.words, re.MULTILINE)) == sorted(f"c{i}" for i in range(31))
    assert any(abs(result - 15 / 31) < 1e-12 for result in page.numbers)  # the mean over all of class 0


def test_both_questions_stand_side_by_side(run: SmallRun) -> None:
    page = Parsed(make_page(run))
    assert "Same kind?" in page.words
    assert "Same picture?" in page.words
    assert BASELINES["itq"]["neighbor_recall_at"]["10"] in page.numbers
    assert "rotated" in page.words


def test_quantisers_bring_the_answer_to_why_hamming(run: SmallRun) -> None:
    assert "Why Hamming" not in make_page(run)
    pq = {
        "title": "PQ",
        "about": "not Hamming",
        "bytes_per_image": 1,
        "map": 0.49991,
        "neighbor_recall_at": {"10": 0.4},
    }
    run.change("baselines", pq=pq)
    part = make_page(run).split("<h3>Why Hamming at all?</h3>")[1].split("<h3>")[0]
    with SPEED.open(newline="", encoding="utf-8") as file:
        speeds = {row["method"]: row for row in csv.DictReader(file)}
    assert {name for name, row in speeds.items() if row["hamming"] == "1"} == {"ssdh", "lsh", "itq"}
    rows = re.findall(r"<tr>(.*?)</tr>", part)[1:]
    values = [[float(value) for value in re.findall(r'<data value="(.*?)">', row)] for row in rows]
    times = {name: float(row["times_float"]) for name, row in speeds.items()}
    assert [re.findall(r'<th scope="row">(.*?)</th>', row)[0] for row in rows] == ["Float", "SSDH", "ITQ", "PQ"]
    expected = [
        [0.6111222, times["float"]],
        [2, METRICS["map"], METRICS["neighbor_recall_at"]["10"], times["ssdh"]],
        [2, 0.4777888, 0.2777, times["itq"]],
        [1, 0.49991, 0.4, times["pq"]],
    ]
    for row, numbers in zip(values, expected, strict=True):
        assert row == pytest.approx(numbers, rel=1e-5)


def test_same_picture_is_a_recipe_of_its_own_and_says_by_which_metric(run: SmallRun) -> None:
    words = " ".join(Parsed(make_page(run)).words.split())
    assert "Same picture : the recipe neighbors learns" in words
    assert "nearest by cosine of the features" in words
    run.params["evaluate"]["metric"] = "l2"
    assert "nearest by Euclidean distance of the features" in " ".join(Parsed(make_page(run)).words.split())


@pytest.mark.parametrize("labelled", [True, False])
def test_of_embeddings_no_word_speaks_of_images(tmp_path: Path, project: Path, labelled: bool) -> None:
    run = SmallRun(tmp_path / "run", project, labelled=labelled)
    run.params["datasets"]["digits"]["images"] = {"size": None, "weights": "none"}
    words = Parsed(make_page(run)).words.replace("data/images", "")
    assert re.findall(r".*\bimages?\b.*", words) == []
    assert ("rows shortlisted" in words) == labelled


def test_re_ranking_is_two_curves_and_a_table_of_every_method(run: SmallRun) -> None:
    markup = make_page(run)
    page = Parsed(markup)
    for result in (METRICS["rerank"], BASELINES["itq"]["rerank"]):
        for values in result.values():
            assert set(values.values()) <= set(page.numbers)
    assert "by length of the shortlist" in markup
    assert "images shortlisted" in page.words
    assert "precision@10" in page.words


def test_without_labels_re_ranking_has_no_column_of_them(tmp_path: Path, project: Path) -> None:
    run = SmallRun(tmp_path / "run", project, labelled=False)
    unlabelled = {"100": {"float_recall_at_10": 0.7, "shortlist": 132.583}}
    run.change("metrics", rerank=unlabelled)
    run.change("baselines", itq={"title": "ITQ", "rerank": unlabelled})
    section = make_page(run).split('<section id="rerank"')[1].split("</section>")[0]
    assert '<data value="132.583">132.6</data>' in section
    assert "precision@10" not in section
    assert "mAP" not in section


@pytest.mark.parametrize(("recipe", "said"), [("manifold", "regressed to 0 at weight 0.5"), ("published", "left out")])
def test_what_becomes_of_pairs_between_the_thresholds(run: SmallRun, recipe: str, said: str) -> None:
    run.params["recipe"] = recipe
    assert f"between the thresholds (0): {said}" in Parsed(make_page(run)).words
