from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from geoseg.errors import ModelError
from geoseg.models import zoo
from geoseg.models.architectures import build
from geoseg.models.card import CARD_SUFFIX
from geoseg.models.download import cache_folder, download, fetch
from geoseg.models.runtime_torch import load_network

ARCHITECTURE = "unet-mobilenetv3_small_050"


class Server:
    """Serves bytes on this machine, with ranges, and cuts the first answers short when told to."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut_after: int | None = None
        self.requests: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = server.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                tag = f'"{hashlib.md5(content).hexdigest()}"'
                span = self.headers.get("Range")
                server.requests.append(span)
                start = 0
                if span and self.headers.get("If-Range") == tag:
                    start = int(span.removeprefix("bytes=").removesuffix("-"))
                    if start >= len(content):
                        self.send_error(416)
                        return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.send_header("ETag", tag)
                self.end_headers()
                stop = len(content) if server.cut_after is None else server.cut_after
                self.wfile.write(content[start:stop])

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("GEOSEG_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return build(ARCHITECTURE, classes=3, bands=8).state_dict()


@pytest.fixture
def entry():
    """An entry of the zoo with a smaller network."""
    return replace(zoo.find("ftw-fields"), architecture=ARCHITECTURE, name="small", weights="small.safetensors")


def at(card, url, **facts):
    return replace(card, download=tuple(sorted({"url": url, **facts}.items())))


CONTENT = bytes(range(256)) * 64
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def test_right_hash(server, tmp_path):
    server.files["/model"] = CONTENT
    assert fetch(f"{server.url}/model", tmp_path / "model", sha256=DIGEST) == DIGEST
    assert (tmp_path / "model").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_wrong_hash_keeps_nothing(server, tmp_path):
    server.files["/model"] = CONTENT
    with pytest.raises(ModelError, match=f"has sha256 {DIGEST}, expected 0000") as caught:
        fetch(f"{server.url}/model", tmp_path / "model", sha256="0" * 64)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_cut_transfer_goes_on_where_it_was(server, tmp_path):
    server.files["/model"], server.cut_after = CONTENT, 10_000
    with pytest.raises(ModelError, match=r"cut after 10,000 of 16,384 bytes; run the same command again"):
        fetch(f"{server.url}/model", tmp_path / "model", sha256=DIGEST)
    assert not (tmp_path / "model").exists()
    server.cut_after = None
    fetch(f"{server.url}/model", tmp_path / "model", sha256=DIGEST)
    assert (tmp_path / "model").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=10000-"]


@pytest.mark.parametrize("newer", [b"another file" * 3000, b"short"])
def test_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path, newer):
    server.files["/model"], server.cut_after = CONTENT, 10_000
    with pytest.raises(ModelError, match="cut after"):
        fetch(f"{server.url}/model", tmp_path / "model", sha256=None)
    server.files["/model"], server.cut_after = newer, None
    assert fetch(f"{server.url}/model", tmp_path / "model", sha256=None) == hashlib.sha256(newer).hexdigest()
    assert (tmp_path / "model").read_bytes() == newer


def test_whole_file_without_its_name_is_not_an_endless_wait(server, tmp_path):
    server.files["/model"] = CONTENT
    tag = f'"{hashlib.md5(CONTENT).hexdigest()}"'
    (tmp_path / "model.part").write_bytes(CONTENT)
    (tmp_path / "model.etag").write_text(tag)
    assert fetch(f"{server.url}/model", tmp_path / "model", sha256=DIGEST) == DIGEST


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/model", "file:///nowhere/model", "ftp://127.0.0.1/model"])
def test_out_of_reach_is_one_line(tmp_path, url):
    with pytest.raises(ModelError, match=r"cannot fetch .* --from") as caught:
        fetch(url, tmp_path / "model", sha256=None)
    assert "\n" not in str(caught.value)


def test_missing_page_is_one_line(server, tmp_path):
    with pytest.raises(ModelError, match="answers 404"):
        fetch(f"{server.url}/gone", tmp_path / "model", sha256=None)


def test_pickle_becomes_safetensors_and_is_trusted_from_then_on(cache, tmp_path, entry, state):
    path, said = tmp_path / "model.pth", []
    torch.save(state, path)
    card = download(at(entry, path.as_uri()), note=said.append)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert any("nobody has published a hash" in line and digest in line for line in said)
    assert dict(card.download)["sha256"] == digest
    assert sorted(item.name for item in cache.iterdir()) == ["small.card.json", "small.safetensors", "small.sha256"]
    loaded = load_network(card).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    torch.save({**state, next(iter(state)): torch.zeros_like(next(iter(state.values())))}, path)
    with pytest.raises(ModelError, match=f"expected {digest}"):
        download(at(entry, path.as_uri()))


def test_checkpoint_of_lightning_by_its_prefix(cache, tmp_path, entry, state):
    path = tmp_path / "model.ckpt"
    torch.save(
        {"state_dict": {f"model.{key}": value for key, value in state.items()} | {"loss.w": torch.ones(3)}}, path
    )
    card = download(at(entry, path.as_uri(), prefix="model."))
    assert load_network(card).state_dict().keys() == state.keys()


def test_from_a_copy(cache, tmp_path, entry, state):
    path = tmp_path / "copy.pth"
    torch.save(state, path)
    card = download(at(entry, "http://127.0.0.1:9/model.pth"), source=str(path))
    assert card.is_there


class _Code:
    def __reduce__(self):
        return (print, ("this must never be printed",))


def test_pickle_with_code_is_refused(cache, tmp_path, entry, capsys):
    path = tmp_path / "model.pth"
    torch.save({"weights": _Code()}, path)
    with pytest.raises(ModelError, match="holds more than weights and would run code") as caught:
        download(at(entry, path.as_uri()))
    assert "\n" not in str(caught.value)
    assert "never" not in capsys.readouterr().out
    assert not list(cache.iterdir())


def test_weights_of_another_network_are_refused(cache, tmp_path, entry):
    path = tmp_path / "model.pth"
    torch.save({"weight": torch.ones(2)}, path)
    said = []
    with pytest.raises(ModelError, match="does not fit the architecture"):
        download(at(entry, path.as_uri()), note=said.append)
    torch.save([1, 2], path)
    with pytest.raises(ModelError, match="holds no table of weights"):
        download(at(entry, path.as_uri()), note=said.append)
    assert not any("trusted" in line for line in said)
    assert not list(cache.iterdir())


def test_models_of_the_zoo_say_how_to_get_them(cache):
    with pytest.raises(ModelError, match="not downloaded yet; run: geoseg models ftw-fields --download"):
        zoo.load("ftw-fields")
    listed = {card.name: card for card in zoo.downloadable()}
    for card in listed.values():
        assert not card.is_there
        assert not card.automatic
        assert card.licence
        assert card.intended_use
        assert dict(card.download)["url"].startswith("https://")
        assert card.bands == ("red_1", "green_1", "blue_1", "nir_1", "red_2", "green_2", "blue_2", "nir_2")
        assert card.class_codes(None) == {"field": 3}
    assert cache_folder() == cache


def test_downloaded_model_is_found_by_name(cache, tmp_path, state, monkeypatch):
    small = replace(zoo.find("ftw-fields"), architecture=ARCHITECTURE)
    path = tmp_path / "model.pth"
    torch.save(state, path)
    download(at(small, path.as_uri()))
    card = zoo.load("ftw-fields")
    assert card.path == cache / f"ftw-fields{CARD_SUFFIX}"
    assert card.boundaries == ((3, 5),)
    load_network(card)


def test_folders_of_smps_hub_are_models(tmp_path):
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    options = {"decoder_channels": (32, 16, 8), "encoder_depth": 3}
    network = smp.Unet("mobilenet_v2", encoder_weights=None, classes=3, **options)
    folder = tmp_path / "glaciers"
    network.save_pretrained(folder)
    card = zoo.load(str(folder))
    assert card.name == "glaciers"
    assert card.activation == "softmax"
    assert [entry.name for entry in card.classes] == ["class_1", "class_2"]
    loaded = load_network(card).eval()
    pixels = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(pixels), network.eval()(pixels))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"in_channels": 4}))
    with pytest.raises(ModelError, match="takes 4 bands and does not say"):
        zoo.load(str(folder))
