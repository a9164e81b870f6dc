"""Scenes behind a URL: read by ranges, the same pixels as from the disk."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from geoseg.errors import SceneError
from geoseg.lattice import Window
from geoseg.remote import place_of, version_of
from geoseg.scene import Scene


class RangeHandler(SimpleHTTPRequestHandler):
    """Serves a folder, byte ranges too, as object stores do."""

    def do_GET(self):
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)?", self.headers.get("Range", ""))
        path = self.translate_path(self.path)
        try:
            with open(path, "rb") as file:  # noqa: PTH123
                content = file.read()
        except OSError:
            self.send_error(404)
            return
        if wanted is None:
            self.send_response(200)
        else:
            first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            content = content[first : last + 1]
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", self.date_time_string(Path(path).stat().st_mtime))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """The address of a server of tmp_path, in a process of its own: rasterio.open does not let other threads run."""
    with subprocess.Popen([sys.executable, __file__, str(tmp_path)], stdout=subprocess.PIPE, text=True) as server:
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.kill()


def test_a_url_reads_like_the_file(served, write_raster):
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 255, (3, 300, 500), dtype=np.uint8)
    path = write_raster(pixels, tiled=True, blockxsize=128, blockysize=128, photometric="RGB")
    local, remote = Scene.open(path), Scene.open(f"{served}/{path.name}")
    assert remote.bands == local.bands
    assert remote.transform == local.transform
    window = Window(-20, 100, 300, 250)
    for found, expected in zip(remote.read(window, (3, 1)), local.read(window, (3, 1)), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_remote_scene_is_known_by_size_and_time(served, write_raster):
    pixels = np.ones((3, 40, 50), np.uint8)
    path = write_raster(pixels)
    url = f"{served}/{path.name}"
    before = Scene.open(url).fingerprint()
    assert Scene.open(f"{url}?signature=1").fingerprint() == before
    write_raster(pixels, compress="DEFLATE")
    assert Scene.open(url).fingerprint() != before


def test_a_scene_in_an_object_store_is_known_by_its_etag(object_store, bucket, write_raster):
    path = write_raster(np.ones((3, 40, 50), np.uint8))
    place = place_of(f"s3://{bucket}/scene.tif")
    place.upload(path)
    before = version_of(str(place))
    assert str(path.stat().st_size) in before
    assert version_of(f"/vsis3/{bucket}/scene.tif") == before
    place.upload(write_raster(np.full((3, 40, 50), 2, np.uint8)))
    assert version_of(str(place)) != before
    assert version_of(f"s3://{bucket}/none.tif") == ""


def test_a_url_without_a_file_is_one_line(served):
    with pytest.raises(SceneError, match=r"none\.tif") as caught:
        Scene.open(f"{served}/none.tif")
    assert "\n" not in str(caught.value)


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(RangeHandler, directory=sys.argv[1])) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
