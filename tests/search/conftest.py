"""What several files of this folder use: a gallery of digits and the page's server over it."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from ssdh.search.gallery import Gallery
from ssdh.search.web.app import create_app
from tests.helpers.galleries import UPLOAD_LIMIT, digits_gallery


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return digits_gallery(tmp_path_factory.mktemp("digits"), count=400)


@pytest.fixture(scope="module")
def client(gallery: Gallery) -> Iterator[TestClient]:
    app = create_app(gallery, max_upload=UPLOAD_LIMIT)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as c:
        yield c
