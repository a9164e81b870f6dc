"""Lists of scenes: folders, globs, CSVs, STAC files and APIs."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.parse
from pathlib import Path

import pytest

from geoseg.engine.scenes import is_one_scene, list_scenes
from geoseg.errors import SceneError, SettingsError

TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def names(*given, **options) -> list[str]:
    return [scene.name for scene in list_scenes([str(one) for one in given], **options)]


def test_a_folder_a_glob_and_paths(tmp_path):
    touch(tmp_path, "b.tif", "a.TIFF", "c.jp2", "notes.txt", ".hidden.tif", "b.tif.aux.xml", "deep/d.tif")
    assert names(tmp_path) == ["a", "b", "c"]
    assert names(tmp_path / "*.tif") == ["b"]
    assert names(tmp_path / "**" / "*.tif") == ["b", "d"]
    assert names(tmp_path / "c.jp2", tmp_path, "https://host/x.tif?token=1") == ["c", "a", "b", "x"]
    assert not is_one_scene([str(tmp_path)])
    assert not is_one_scene(["a.tif", "b.tif"])
    for one in (str(tmp_path / "b.tif"), "https://host/x.tif?a=1", "s3://bucket/a.vrt", "/vsicurl/https://h/[1].tif"):
        assert is_one_scene([one])


def test_what_holds_no_scene_is_named(tmp_path):
    for nothing in (tmp_path, tmp_path / "*.tif"):
        with pytest.raises(SceneError, match="holds no scene"):
            names(nothing)
    with pytest.raises(SceneError, match="no such file"):
        names(tmp_path / "none.csv")


def test_names_are_unique_and_fit_for_files(tmp_path):
    touch(tmp_path, "1/scene.tif", "2/Scene.tif", "3/con.tif", "3/été 2024.tif", "3/ok-1.2_b.tif")
    given = [tmp_path / "1/scene.tif", tmp_path / "2/Scene.tif", tmp_path / "3"]
    found = names(*given)
    assert len({name.lower() for name in found}) == 5
    assert [name[:6] for name in found[:2]] == ["scene-", "Scene-"]
    assert found[2].startswith("con-")
    assert found[3] == "ok-1.2_b"
    assert found[4].isascii()
    assert dict(zip(names(*given[::-1]), "xxxxx", strict=True)).keys() == set(found), "names depend on the order"


def test_a_csv(tmp_path):
    (tmp_path / "list.csv").write_text(
        "Name,URL,Datetime,cloud\n"
        "june,a.tif,2024-06-01T10:00:00Z,3\n"
        ',"https://host/b, c.tif",,\n'
        ",,,\n"
        f",{tmp_path / 'a.tif'},,\n",
        encoding="utf-8-sig",
    )
    june, other = list_scenes([str(tmp_path / "list.csv")])
    assert (june.name, june.path, june.datetime) == ("june", str(tmp_path / "a.tif"), "2024-06-01T10:00:00Z")
    assert (other.path, other.datetime) == ("https://host/b, c.tif", None)
    (tmp_path / "bad.csv").write_text("file,x\n1,2\n")
    with pytest.raises(SceneError, match=r"columns file, x; .* path, url, href or scene"):
        names(tmp_path / "bad.csv")


def item(name, assets, *, when="2024-06-01T00:00:00Z", box=(0, 0, 1, 1), **more):
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "bbox": list(box),
        "geometry": None,
        "properties": {"datetime": when},
        "links": [],
        "assets": assets,
        **more,
    }


def asset(href, *roles, kind=TIFF):
    return {"href": href, "type": kind, "roles": list(roles)}


@pytest.mark.parametrize(
    ("assets", "chosen"),
    [
        ({"B04": asset("4.tif", "data"), "visual": asset("v.tif", "visual")}, "v.tif"),
        ({"thumbnail": asset("t.png", "thumbnail", kind="image/png"), "B04": asset("4.tif", "data")}, "4.tif"),
        ({"overview": asset("o.tif", "overview"), "ortho": asset("x.tif")}, "x.tif"),
        ({"image": {"href": "plain.tif"}, "data": asset("d.json", kind="application/json")}, "plain.tif"),
    ],
)
def test_the_asset_that_is_the_scene(tmp_path, assets, chosen):
    (tmp_path / "item.json").write_text(json.dumps(item("one", assets)))
    (scene,) = list_scenes([str(tmp_path / "item.json")])
    assert (scene.path, scene.name, scene.datetime) == (str(tmp_path / chosen), "one", "2024-06-01T00:00:00Z")
    (scene,) = list_scenes([str(tmp_path / "item.json")], asset="nonesuch")
    assert "no asset nonesuch; its assets are" in scene.problem


def test_a_collection_of_files(tmp_path):
    touch(tmp_path, "items/x")
    for name, when, box in (("a", "2024-05-31T23:00:00Z", (0, 0, 1, 1)), ("b", "2024-06-02T00:00:00Z", (5, 5, 6, 6))):
        content = item(name, {"data": asset(f"../{name}.tif", "data")}, when=when, box=box)
        (tmp_path / "items" / f"{name}.json").write_text(json.dumps(content))
    links = [{"rel": "item", "href": f"./items/{name}.json"} for name in "ab"] + [{"rel": "root", "href": "x.json"}]
    (tmp_path / "collection.json").write_text(json.dumps({"type": "Collection", "id": "c", "links": links}))
    catalog = {"type": "Catalog", "id": "c", "links": [{"rel": "child", "href": "collection.json"}]}
    (tmp_path / "catalog.json").write_text(json.dumps(catalog))
    for given in ("collection.json", "catalog.json"):
        scenes = list_scenes([str(tmp_path / given)])
        assert [Path(scene.path).resolve() for scene in scenes] == [tmp_path / "a.tif", tmp_path / "b.tif"]
    whole = tmp_path / "catalog.json"
    assert names(whole, datetime="2024-06-01/..") == ["b"]
    assert names(whole, datetime="2024-05-31") == ["a"]
    assert names(whole, bounds=(4, 4, 7, 7)) == ["b"]
    with pytest.raises(SceneError, match=r"holds no scene within --bbox 50,50,51,51"):
        names(whole, bounds=(50, 50, 51, 51))
    with pytest.raises(SettingsError, match="START/END"):
        names(whole, datetime="last year")
    with pytest.raises(SettingsError, match="--asset and --datetime choose among STAC items, but no STAC"):
        names(tmp_path / "a.tif", asset="visual", datetime="2024-05-31")


def test_what_is_no_stac_is_refused(tmp_path):
    for content, message in (
        ({"type": "Topology"}, "of type 'Topology'"),
        ({"type": "FeatureCollection", "features": [{"type": "Feature"}]}, "without assets"),
        ({"type": "Catalog", "conformsTo": ["x"], "links": []}, "collections/NAME"),
        ([1], "JSON list"),
    ):
        (tmp_path / "it.json").write_text(json.dumps(content))
        with pytest.raises(SceneError, match=message):
            names(tmp_path / "it.json")
    (tmp_path / "it.json").write_text("{")
    with pytest.raises(SceneError, match="is no JSON"):
        names(tmp_path / "it.json")


@pytest.fixture
def api():
    """A small STAC API of seven items, three a page; its first answer is always that it is busy."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            address = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(address.query))
            here = f"http://127.0.0.1:{self.server.server_address[1]}"
            if len(asked) == 1:
                self.send_error(503)
                return
            if address.path == "/collections/ortho":
                links = [{"rel": "items", "href": f"{here}/collections/ortho/items"}]
                content = {"type": "Collection", "id": "ortho", "links": links}
            elif address.path == "/collections/ortho/items":
                page = int(query.get("page", 0))
                features = [
                    item(f"s{n}", {"image": asset(f"/files/{n}.tif", "data")}, box=(n, 0, n + 1, 1))
                    for n in range(3 * page, min(3 * page + 3, 7))
                ]
                query["page"] = str(page + 1)
                more = [{"rel": "next", "href": f"?{urllib.parse.urlencode(query)}"}] if page < 2 else []
                content = {"type": "FeatureCollection", "features": features, "links": more}
            else:
                self.send_error(404)
                return
            body = json.dumps(content).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


def test_an_api_page_by_page(api):
    address, asked = api
    scenes = list_scenes([f"{address}/collections/ortho"])
    assert [scene.name for scene in scenes] == [f"s{n}" for n in range(7)]
    assert scenes[4].path == f"{address}/files/4.tif"
    assert len(asked) == 5  # the collection twice, since the server was busy
    assert names(f"{address}/collections/ortho/items", bounds=(2.5, 0, 4.5, 1), datetime="2024-06-01/2024-06-30") == [
        "s2",
        "s3",
        "s4",
    ]
    assert "bbox=2.5,0,4.5,1&datetime=2024-06-01/2024-06-30" in asked[5]
    with pytest.raises(SceneError, match="cannot be read: HTTP Error 404"):
        names(f"{address}/collections/none")
