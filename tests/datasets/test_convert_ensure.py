"""From a dataset's name to its atomic files: found, converted, fetched, or said what is missing."""

import gzip
import json
import multiprocessing
import os
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from recbole_llm import hookspecs
from recbole_llm.datasets import convert, manifest, names
from recbole_llm.datasets.amazon2014 import Amazon2014, AmazonBeauty, AmazonBeautyOnePass
from recbole_llm.datasets.contracts import Converter, Interactions, RawFile
from recbole_llm.datasets.movielens import MovieLens1M, MovieLens1M10Min
from recbole_llm.errors import UserError
from recbole_llm.plugins import PluginHouse
from recbole_llm.registry import Entry


class Shop(Converter):
    """A dataset of a plugin, whose publisher is the test's server."""

    name = "shop"
    files = (RawFile("clicks.txt", "http://127.0.0.1:9/clicks.txt"), RawFile("notes.txt", optional=True))
    homepage = "https://shop.example"
    item_fields = {"title": "token_seq"}

    def read_interactions(self, raw):
        for n, line in enumerate(raw["clicks.txt"].read_text().split()):
            user, item = line.split(",")
            yield Interactions([user], [item], [n])

    def read_items(self, raw, wanted):
        yield from ((i, {"title": f"Item {i}"}) for i in sorted(wanted))


@pytest.fixture
def plugins():
    found = PluginHouse(disable=(), bundled=False, installed=False)
    for cls in (Shop, AmazonBeauty, AmazonBeautyOnePass, MovieLens1M, MovieLens1M10Min):
        found.registry.add(Entry("dataset", cls.name, cls, "test", "test 0"))
    return found


def write_clicks(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clicks.txt").write_text("u1,a u1,b u2,a")
    return folder


@pytest.mark.parametrize("place", ["raw_path", "raw_path/shop", "env", "env/shop", "dataset/raw"])
def test_raw_files_are_found(home, plugins, monkeypatch, place):
    monkeypatch.delenv("RECBOLE_LLM_RAW", raising=False)
    raw_path = None
    if place.startswith("env"):
        monkeypatch.setenv("RECBOLE_LLM_RAW", str(home / "env"))
        write_clicks(home / place)
    elif place.startswith("raw_path"):
        raw_path = home / "raw_path"
        write_clicks(home / place)
    else:
        write_clicks(home / "dataset_atomic" / "shop" / "raw")
    folder = convert.ensure("shop", raw_path=raw_path, download=False, progress=False, plugins=plugins)
    assert folder == home / "dataset_atomic" / "shop"
    assert manifest.read(folder)["statistics"]["interactions"] == 3
    assert {p.name for p in folder.iterdir()} - {"raw"} == {"shop.inter", "shop.item", "manifest.json"}


def test_atomic_files_are_taken_as_they_are(home, plugins):
    """A dataset nobody registered needs no converter; neither do pre-split files."""
    for name, file in (("mine", "mine.inter"), ("split", "split.train.inter")):
        (home / "data" / name).mkdir(parents=True)
        (home / "data" / name / file).write_text("user_id:token\titem_id:token\n")
        assert convert.ensure(name, data_path=home / "data", plugins=plugins) == home / "data" / name
        assert os.listdir(home / "data" / name) == [file]


def test_an_unknown_name_suggests_and_says_where_own_files_go(home, plugins):
    with pytest.raises(UserError, match="no dataset named 'amazon-beuty'") as e:
        convert.ensure("amazon-beuty", plugins=plugins)
    assert "amazon-beauty" in e.value.hint and "amazon-beuty.inter" in e.value.hint
    assert not (home / "dataset_atomic").exists()


def test_missing_and_download_off_says_what_to_fetch_and_where_to_put_it(home, plugins):
    with pytest.raises(UserError, match="download is off") as e:
        convert.ensure("amazon-beauty", download=False, plugins=plugins)
    for part in (
        "https://jmcauley.ucsd.edu/data/amazon/",
        "reviews_Beauty_5.json.gz or reviews_Beauty.json.gz",
        "meta_Beauty.json.gz",
        str(home / "dataset_atomic" / "amazon-beauty" / "raw"),
        "--raw_path",
    ):
        assert part in e.value.hint
    assert not (home / "dataset_atomic").exists()


def test_a_login_is_said(home, plugins):
    with pytest.raises(UserError, match="asks for a login") as e:
        convert.ensure("amazon-m2-de", plugins=plugins)
    assert "aicrowd" in e.value.hint and str(home / "dataset_atomic" / "amazon-m2" / "raw") in e.value.hint


def test_variants_share_raw_files(home, plugins):
    raw = home / "dataset_atomic" / "ml-1m" / "raw"
    raw.mkdir(parents=True)
    with zipfile.ZipFile(raw / "ml-1m.zip", "w") as archive:
        archive.writestr(
            "ml-1m/ratings.dat", "\n".join(f"{u}::{i}::3::{t}" for u in range(5) for i, t in ((1, 0), (2, 9)))
        )
        archive.writestr("ml-1m/movies.dat", "1::A (1999)::Drama\n2::B (1998)::War")
    folder = convert.ensure("ml-1m-10min", download=False, progress=False, plugins=plugins)
    content = manifest.read(folder)
    assert content["statistics"]["users"] == 5
    assert [r["publisher"] for r in content["raw"]] == [False, False]  # the zip's sha256 is known, and not this


def test_a_full_file_serves_where_the_five_core_is_asked_for_and_not_the_reverse(home, plugins, tmp_path):
    rows = [{"reviewerID": f"A{u}", "asin": f"B{i}", "unixReviewTime": 1} for u in range(6) for i in range(6)]
    raw = tmp_path / "files"
    raw.mkdir()
    (raw / "reviews_Beauty.json").write_text("\n".join(map(json.dumps, rows)))  # without .gz, and the full one
    (raw / "meta_Beauty.json.gz").write_bytes(gzip.compress(b"{'asin': 'B0', 'title': 'T'}"))
    folder = convert.ensure("amazon-beauty", raw_path=raw, download=False, progress=False, plugins=plugins)
    assert manifest.read(folder)["raw"][0]["file"] == "reviews_Beauty.json"
    (raw / "reviews_Beauty.json").rename(raw / "reviews_Beauty_5.json")
    with pytest.raises(UserError, match="missing"):
        convert.ensure("amazon-beauty-onepass", raw_path=raw, download=False, plugins=plugins)


def test_fetched_from_the_publisher_then_converted(home, plugins, monkeypatch):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = b"u1,a u1,b u2,a"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        monkeypatch.setattr(
            Shop, "files", (RawFile("clicks.txt", f"http://127.0.0.1:{server.server_port}/clicks.txt"),)
        )
        folder = convert.ensure("shop", progress=False, plugins=plugins)
    finally:
        server.shutdown()
        server.server_close()
    assert (folder / "raw" / "clicks.txt").is_file()
    assert manifest.read(folder)["raw"][0]["publisher"] is True


def test_a_download_that_fails_leaves_no_dataset(home, plugins):
    with pytest.raises(UserError, match="cannot be reached"):
        convert.ensure("shop", progress=False, plugins=plugins)
    assert not list(home.rglob("*.inter"))


def _ensure(home, queue):
    os.environ["RECBOLE_LLM_HOME"] = str(home)
    found = PluginHouse(disable=(), bundled=False, installed=False)
    found.registry.add(Entry("dataset", "shop", Shop, "test", "test 0"))
    convert.ensure("shop", raw_path=home / "raw", download=False, progress=False, plugins=found)
    queue.put(manifest.read(home / "dataset_atomic" / "shop")["statistics"]["interactions"])


def test_parallel_runs_convert_once_and_all_find_the_files(home):
    write_clicks(home / "raw")
    context = multiprocessing.get_context("fork" if os.name != "nt" else "spawn")
    queue = context.Queue()
    workers = [context.Process(target=_ensure, args=(home, queue)) for _ in range(4)]
    for w in workers:
        w.start()
    assert [queue.get(timeout=60) for _ in workers] == [3] * 4
    for w in workers:
        w.join()
    assert {p.name for p in (home / "dataset_atomic" / "shop").iterdir()} == {
        "shop.inter",
        "shop.item",
        "manifest.json",
    }


def test_a_killed_conversion_leaves_nothing_that_counts(home, plugins):
    folder = home / "dataset_atomic" / "shop"
    leftover = folder / ".converting-abc"
    leftover.mkdir(parents=True)
    (leftover / "shop.inter").write_text("half")
    convert.ensure("shop", raw_path=write_clicks(home / "raw"), download=False, progress=False, plugins=plugins)
    assert {p.name for p in folder.iterdir()} == {"shop.inter", "shop.item", "manifest.json"}


def test_a_dataset_without_raw_files_is_made_on_the_spot(home):
    folder = convert.ensure("toy", download=False, progress=False)
    assert manifest.read(folder)["statistics"]["users"] == 60


def test_csv_is_no_dataset(home):
    with pytest.raises(UserError, match="'csv' is no dataset") as e:
        convert.ensure("csv")
    assert "recbole-llm convert csv" in e.value.hint


def test_families_of_names(plugins):
    cls = names.converter_class("amazon-2014-Sports_and_Outdoors", plugins)
    assert issubclass(cls, Amazon2014) and cls.name == "amazon-2014-Sports_and_Outdoors"
    assert cls.files[0].url.endswith("/reviews_Sports_and_Outdoors_5.json.gz")
    assert names.converter_class("amazon-2018-All_Beauty", plugins).files[1].name == "meta_All_Beauty.json.gz"
    assert names.converter_class("amazon-m2-jp", plugins).market == "JP"


@pytest.mark.parametrize(
    "name", ["amazon-2014-../../x", "amazon-2018-a b", "amazon-m2-xx", "amazon-m2-UK", "amazon-2014-"]
)
def test_names_that_make_no_dataset(plugins, name):
    with pytest.raises(UserError):
        names.converter_class(name, plugins)


def test_a_registered_class_that_is_no_converter_names_its_owner(plugins):
    plugins.registry.add(Entry("dataset", "odd", "collections:OrderedDict", "oddities", "odd 1.0"))
    with pytest.raises(UserError, match=r"oddities \(odd 1.0\)"):
        names.converter_class("odd", plugins)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rul": "bin"}, "no option 'rul'"),
        ({"rule": "hour"}, "option 'rule'"),
        ({"minutes": "ten"}, "option 'minutes'"),
        ({"duplicates": "merge"}, "option 'duplicates'"),
    ],
)
def test_options_are_checked(options, says):
    with pytest.raises(UserError, match=says):
        names.make(MovieLens1M10Min, options)


def test_defaults_for_a_dataset_that_no_yaml_speaks_of(home, plugins):
    folder = convert.ensure("shop", raw_path=write_clicks(home / "raw"), progress=False, plugins=plugins)
    assert manifest.config_defaults(folder, "shop") == {
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "text_fields": ["title"],
    }


def test_the_hook_exists():
    assert "register_datasets" in vars(hookspecs)
