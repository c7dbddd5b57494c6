"""What the page answers from: an opened gallery, opened anew where its collection has changed."""

from threading import Lock
from typing import Any

from ssdh.search.collection import Collection, open_collection
from ssdh.search.gallery import Gallery
from ssdh.search.searchable import searchable_collection
from ssdh.search.web.groups import Groups
from ssdh.search.web.thumbnails import Thumbnails
from ssdh.search.web.view import View


class Shown:
    """One state, whole: all that an answer comes from."""

    def __init__(self, gallery: Gallery, limits: dict[str, Any]) -> None:
        self.gallery, self.view, self.thumbnails = gallery, View(gallery), Thumbnails(gallery)
        self.groups = Groups(gallery, self.view)
        self.about = self.view.about() | limits


class Current:
    """The newest state of a collection, whoever changed it; of a run, which has none, the only one.

    Both methods raise DataError where the collection is gone, empty or broken; once it is whole they go on.
    """

    def __init__(self, gallery: Gallery, collection: Collection | None, limits: dict[str, Any]) -> None:
        """collection: what `gallery` was opened from. limits: more for `about`."""
        self._shown, self._collection, self._limits = Shown(gallery, limits), collection, limits
        self._lock = Lock()

    def now(self) -> Shown:
        """As `newest`, but the state of before while another request opens that one."""
        return self._shown if self._lock.locked() or not self._has_changed() else self.newest()

    def newest(self) -> Shown:
        """The state of this moment."""
        with self._lock:
            if self._collection is not None and self._has_changed():
                collection, before = open_collection(self._collection.folder), self._shown.gallery
                same = before if collection == self._collection else None  # else other networks
                gallery = searchable_collection(collection).open_gallery(before.index.kind, same)
                self._shown, self._collection = Shown(gallery, self._limits), collection
            return self._shown

    def _has_changed(self) -> bool:
        return self._collection is not None and self._collection.version() != self._shown.gallery.version
