"""Groups of near-identical images as the page is told of them; what one keeps or drops is decided, and stays, there."""

from threading import Lock
from typing import Any

from ssdh.hashing.rerank import Features
from ssdh.search.duplicates import SIMILARITY, Member, find_groups, usual_radius
from ssdh.search.engines import CodeTable
from ssdh.search.gallery import Gallery
from ssdh.search.web.view import View

MOST_MEMBERS = 1000  # of one group that are listed; its `size` counts all


class Groups:
    """The groups of one gallery by radius and similarity; the answer to the last question is kept."""

    def __init__(self, gallery: Gallery, view: View) -> None:
        self.gallery, self.view = gallery, view
        self._files: tuple[CodeTable, Features | None] | None = None
        self._asked: tuple[int, float] | None = None
        self._found: list[list[Member]] = []
        self._lock = Lock()

    def page(self, radius: int | None, min_similarity: float | None, start: int, count: int) -> dict[str, Any]:
        """Groups start…start + count, the largest first; ParameterError for a radius or similarity that is none.

        Of a million images it takes minutes, of thousands no time.
        """
        radius = usual_radius(self.view.index.bits) if radius is None else radius
        similarity = SIMILARITY if min_similarity is None else min_similarity
        with self._lock:
            self._files = self._files or self.gallery.files()
            table, features = self._files
            if self._asked != (radius, similarity):
                self._found = find_groups(table, features, radius=radius, min_similarity=similarity)
                self._asked = (radius, similarity)
            groups = self._found
        return {
            "radius": radius,
            "min_similarity": None if features is None else similarity,
            "total": len(groups),
            "images": sum(map(len, groups)),
            "start": start,
            "groups": [
                {"group": number, "size": len(group), "images": self._members(table, group[:MOST_MEMBERS])}
                for number, group in enumerate(groups[start : start + count], start + 1)
            ],
        }

    def _members(self, table: CodeTable, group: list[Member]) -> list[dict[str, Any]]:
        rows = self.gallery.rows_of([int(table.ids[member.row]) for member in group])
        return [
            {
                "id": int(table.ids[member.row]),
                "name": table.metadata["name"][member.row],
                "sha256": table.metadata["sha256"][member.row],
                "distance": member.distance,
                "similarity": None if member.similarity is None else round(member.similarity, 6),
                "exact": member.exact,
                **({"row": int(row), "thumbnail": self.view.thumbnail(int(row))} if row >= 0 else {}),
            }
            for member, row in zip(group, rows, strict=True)
        ]
