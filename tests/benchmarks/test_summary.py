"""The committed table of all benchmarks is that of the committed results."""

import json

from benchmarks.__main__ import headlines
from benchmarks.common import COMMITTED


def test_summary_is_the_table_of_the_results_beside_it() -> None:
    summary = json.loads((COMMITTED / "summary.json").read_text(encoding="utf-8"))["results"]
    assert summary["rows"] == json.loads(json.dumps(headlines(COMMITTED)))
    assert summary["failed"] == []
