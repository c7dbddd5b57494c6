"""The figures of each benchmark that stand in the table of `python -m benchmarks`, read from its JSON file."""

from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]


def row(what: str, ours: Any, beside: Any, ratio: float | None, wanted: str = "") -> Row:
    """One line of the table: `ours` and `beside` with their unit, and what the project set itself."""
    return {"what": what, "ours": ours, "beside": beside, "ratio": ratio, "wanted": wanted}


def _s(seconds: float) -> str:
    return f"{seconds:.3g} s"


def structure(results: Any) -> Iterable[Row]:
    """Fit and labels beside pdist, and the growth."""
    for found in results["compared"]:
        what = f"structure and labels, {found['images']} × {found['dimensions']}, beside pdist"
        yield row(what, _s(found["ours_seconds"]), _s(found["usual_seconds"]), found["ratio"], "≥ 30")
        lean = f"{what}, with one numpy histogram"
        yield row(lean, _s(found["ours_seconds"]), _s(found["lean_seconds"]), found["ratio_lean"])
    for found in results["growth"]:
        what = f"structure ({found['parts']}), {found['images']} × {found['dimensions']}"
        limit = "< 25 s, ≤ 300 MiB" if found["images"] == 20_000 else ""
        memory = f"{found['mib_above_features'] - found['labels_mib']:.0f} MiB above features and labels"
        yield row(what, _s(found["seconds"]), memory, None, limit)


def sampling(results: Any) -> Iterable[Row]:
    """Thresholds of sampled pairs beside those of all pairs."""
    for found in results:
        what = f"thresholds of {found['pairs']:.0e} pairs of {found['images']} images ({found['distances']})"
        worst = max(found["similar, largest"], found["dissimilar, largest"])
        held = f"{100 * found['both ≤ 0.002']:.0f} % of {found['fits']} fits ≤ 0.002"
        wanted = "≤ 0.002" if found["pairs"] == 10**7 and found["distances"] == "features" else ""
        yield row(what, f"off by at most {worst:.4f}", held, None, wanted)


def retrieval(results: Any) -> Iterable[Row]:
    """The evaluator beside its peers."""
    sizes, peers = results["sizes"], {found["candidate"]: found for found in results["peers"]}
    size = f"{sizes['queries']} × {sizes['items']} × {sizes['bits']} bits"
    own = peers["ssdh, expected"]
    for name, found in peers.items():
        if name.startswith("ssdh"):
            continue
        inverse = "faiss" in name
        ratio = 1 / found["times ssdh"] if inverse else found["times ssdh"]
        wanted = "≤ 0.4" if inverse else "≥ 12" if "usual" in name else ""
        yield row(f"evaluation, {size}, beside {name}", _s(own["seconds"]), _s(found["seconds"]), ratio, wanted)
    for found in results["ties"]:
        peers = {
            name: found[name] for name in found if name.startswith(("stable", "argsort", "torch")) and "±" not in name
        }
        furthest = max(peers, key=lambda name: abs(peers[name] - found["expected"]))
        what = f"mAP at {found['bits']} bits, ties in expectation beside the furthest of the peers ({furthest})"
        yield row(what, f"{found['expected']:.4f}", f"{peers[furthest]:.4f}", None)
    worst = max(value for found in results["labels"] for name, value in found.items() if "times" in name)
    yield row("evaluation, 80 and 81 labels beside 10, worst of all lengths", None, None, worst, "≤ 2")
    for found in results["stream"]:
        memory = f"{found['MiB above the codes']:.0f} MiB above the codes"
        yield row(
            f"evaluation, {found['queries']} × {found['items']}", _s(found["seconds"]), memory, None, "< 1000 MiB"
        )


def training(results: Any) -> Iterable[Row]:
    """Steps beside a DataLoader loop, and beside the bare step."""
    for found in results.get("head", []):
        what = f"hash layer, {found['dimensions']} values, batch {found['batch']}, beside the best DataLoader loop"
        loader = max(value for name, value in found.items() if name.startswith("loader"))
        ours = f"{found['ours']:.0f} steps/s"
        wanted = "≥ 5" if found["batch"] < 256 else "≥ 2"
        yield row(what, ours, f"{loader:.0f} steps/s", found["ratio to the best"], wanted)
    for found in results.get("network", []):
        what = f"whole network, {found['arch']} {found['size']} px {found['precision']}, beside the bare step"
        yield row(what, f"{found['ours_ms']:.0f} ms", f"{found['bare_ms']:.0f} ms", found["ratio"], "≤ 1.15")


def extraction(results: Any) -> Iterable[Row]:
    """Extraction beside the bare forward pass and beside the usual loop."""
    for found in results["rows"]:
        what = f"extraction, {found['arch']} {found['size']} px {found['precision']}, beside"
        own = f"{found['ours_images_s']:.1f} images/s"
        yield row(f"{what} the bare pass", own, f"{found['bare_images_s']:.1f}", found["of_bare"], "≥ 0.9")
        yield row(f"{what} the usual loop", own, f"{found['usual_images_s']:.1f}", found["of_usual"])


def search(results: Any) -> Iterable[Row]:
    """A query of each index beside the exact one."""
    flat = {found["codes"]: found["query_ms"] for found in results["rows"] if found["index"] == "flat"}
    for found in results["rows"]:
        what = f"search, {results['images']:,} {found['codes']} codes, {found['index']}"
        note = f"recall@20 {found['recall@20']:.3f}, {found['mib_above_codes']:.0f} MiB"
        ratio = flat[found["codes"]] / found["query_ms"] if found["codes"] in flat else None
        yield row(what, f"{found['query_ms']:.3f} ms", note, ratio)


def serve(results: Any) -> Iterable[Row]:
    """Requests under load."""
    for found in results["rows"]:
        what = f"page, {results['clients']} clients, {found['request']}"
        yield row(what, f"p50 {found['p50_ms']:.0f} ms", f"p99 {found['p99_ms']:.0f} ms", None)


def startup(results: Any) -> Iterable[Row]:
    """What runs cost beside their work."""
    summary = results["summary"]
    noop, start = summary["dvc repro with nothing to do"], summary["dvc repro of one stage"]
    yield row("dvc repro with nothing to do, beside that of one stage", _s(noop), _s(start), noop / start)
    total, outside = summary["default run, seconds"], summary["not inside a stage"]
    yield row("run: what is not inside a stage, beside all of it", _s(outside), _s(total), outside / total)
    torch = next(found["seconds"] for found in results["imports"] if found["imports"] == "torch")
    for found in results["imports"]:
        if found["imports"] != "torch":
            what = f"imports of {found['imports']}, beside importing torch"
            yield row(what, _s(found["seconds"]), _s(torch), found["of torch"])


def pipeline(results: Any) -> Iterable[Row]:
    """Everything after the features, beside the usual way."""
    ways = {found["way"]: found for found in results["rows"]}
    usual = ways["the usual way"]["total"]
    size = f"{results['images']} × {results['dimensions']}, {results['bits']} bits, {results['train']} train"
    for name, found in ways.items():
        if name != "the usual way":
            what = f"pipeline from features, {size}, recipe {name}"
            yield row(what, _s(found["total"]), _s(usual), usual / found["total"], "< 60 s")


def large(results: Any) -> Iterable[Row]:
    """More train images than a matrix of pseudo-labels allows."""
    what = f"manifold, fit and training, {results['images']:,} train images, no matrix"
    memory = f"peak {results['peak_mib']:.0f} MiB"
    yield row(what, _s(sum(results["seconds"].values())), memory, None, "minutes, < 4 GiB")


def decoding(results: Any) -> Iterable[Row]:
    """Decoding beside a plain Pillow loop."""
    for found in results["rows"]:
        if found["way"].startswith("loader"):
            what = f"decoding to {results['size']} px (resize {found['resize']}), {found['way']}, beside Pillow"
            yield row(what, f"{found['images_per_second']} images/s", None, found["ratio"])


def scaling(results: Any) -> Iterable[Row]:
    """The power of n that each curve grows with."""
    for name, curves in results["fits"].items():
        for found in curves:
            what = f"growth of {name}, {found['curve']}: power of n"
            yield row(what, round(found["power"], 2), f"{found['points']} points", None)


HEADLINES: dict[str, Callable[[Any], Iterable[Row]]] = {
    "structure": structure,
    "sampling": sampling,
    "retrieval": retrieval,
    "training": training,
    "extraction": extraction,
    "search": search,
    "serve": serve,
    "startup": startup,
    "pipeline": pipeline,
    "large": large,
    "scaling": scaling,
    "decoding": decoding,
}
