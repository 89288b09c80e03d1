"""Every source on small raw files in the publisher's format, through the contract that plugin authors use."""

import gzip
import itertools
import json
import zipfile

import pytest

from recbole_llm.datasets import amazon_m2, atomic, steam
from recbole_llm.datasets.amazon2014 import AmazonBeauty, AmazonBeautyOnePass
from recbole_llm.datasets.amazon2018 import AmazonPantry, LaMARPet
from recbole_llm.datasets.convert import convert
from recbole_llm.datasets.csv_source import Csv, CsvOptions
from recbole_llm.datasets.movielens import MovieLens1M, MovieLens1M10Min, MovieLens100K, natural_title
from recbole_llm.testing.converters import ConverterContract
from recbole_llm.testing.planted import Planted


def write_gz(path, lines):
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in lines)
    return path


def reviews(users=6, items=6, day=0, **more):
    """A dense block: every user reviews every item, all at day resolution, so it is its own 5-core."""
    return [
        {
            "reviewerID": f"A{u}",
            "asin": f"B{i}",
            "unixReviewTime": 86400 * (i // 2 + day),
            "overall": 5.0 - i % 2,
            **more,
        }
        for u in range(users)
        for i in range(items)
    ]


def converted(converter, raw, folder):
    content = convert(converter, raw, folder, "d", progress=False)
    inter = atomic.read_inter(folder / "d.inter")
    events = list(zip(inter.users.tokens[inter.users.codes], inter.items.tokens[inter.items.codes]))
    items = atomic.read_columns(folder / "d.item")
    by_item = {row[0]: dict(zip(items, row)) for row in zip(*items.values())}
    return content, inter, events, by_item


class TestAmazon2014(ConverterContract):
    interactions = 36

    def converter(self):
        return AmazonBeauty()

    def raw(self, folder):
        meta = [
            {"asin": "B0", "title": 'Oil &amp; "Balm"\tlarge', "brand": "C\u00f4te", "price": 5.04,
             "categories": [["Beauty", "Hair Care"], ["Gifts"]], "description": "line\none"},
            {"asin": "B1", "title": "Second"}, {"asin": "B1", "title": "Second again"},
            {"asin": "unwanted", "title": "x"},
        ]  # fmt: skip
        return {
            "reviews_Beauty_5.json.gz": write_gz(folder / "reviews_Beauty_5.json.gz", map(json.dumps, reviews())),
            "meta_Beauty.json.gz": write_gz(folder / "meta_Beauty.json.gz", map(repr, meta)),
        }

    def test_order_texts_and_counts_T32(self, tmp_path):
        content, inter, events, items = converted(self.converter(), self.raw(tmp_path), tmp_path / "out")
        assert [i for u, i in events if u == "A3"] == ["B0", "B1", "B2", "B3", "B4", "B5"]
        assert inter.order[:6].tolist() == [1, 2, 3, 4, 5, 6]
        assert inter.time[:6].tolist() == [0, 0, 86400, 86400, 172800, 172800]
        assert inter.rating[:2].tolist() == [5.0, 4.0]
        assert content["events"]["tied_with_previous"] == 18 and content["events"]["users_whose_last_two_are_tied"] == 6
        assert items["B0"] == {
            "item_id": "B0", "title": 'Oil & "Balm" large', "brand": "C\u00f4te",
            "categories": "Beauty > Hair Care | Gifts", "description": "line one", "price": 5.04,
        }  # fmt: skip
        assert items["B1"]["title"] == "Second"
        report = content["items"]
        assert (report["duplicate_rows"], report["not_described"], report["without_any_text"]) == (1, 4, 4)
        assert report["without"]["brand"] == {"count": 5, "first": ["B1", "B2", "B3", "B4", "B5"]}

    def test_the_full_file_gives_the_five_core(self, tmp_path):
        extra = [{"reviewerID": "one", "asin": "B0", "unixReviewTime": 5}, *reviews()]
        extra += [{"reviewerID": f"A{u}", "asin": "rare", "unixReviewTime": 9} for u in range(4)]
        raw = self.raw(tmp_path) | {"reviews_Beauty_5.json.gz": write_gz(tmp_path / "full.gz", map(repr, extra))}
        content, _, events, _ = converted(self.converter(), raw, tmp_path / "out")
        assert content["statistics"]["interactions"] == 36 and {i for _, i in events} == {f"B{i}" for i in range(6)}
        assert content["filters"][0]["before"] == {"users": 7, "items": 7, "interactions": 41}
        assert content["filters"][0]["rounds"] == 1

    def test_one_pass_counts_users_and_items_on_the_raw_file(self, tmp_path):
        """A user of six reviews keeps five once a rare item goes, and stays; 5-core would have looked again."""
        rows = [
            *list(reviews(items=5)),
            {"reviewerID": "A0", "asin": "rare", "unixReviewTime": 9000000000.0},
            {"reviewerID": "A1", "asin": "B0", "unixReviewTime": 9000000000.0},
        ]
        raw = {
            "reviews_Beauty.json.gz": write_gz(tmp_path / "r.gz", map(json.dumps, rows)),
            "meta_Beauty.json.gz": self.raw(tmp_path)["meta_Beauty.json.gz"],
        }
        content, _, events, _ = converted(AmazonBeautyOnePass(), raw, tmp_path / "out")
        assert {u for u, _ in events} == {"A0", "A1"}  # the others have five, and "more than five" is asked
        assert [i for u, i in events if u == "A0"] == ["B0", "B1", "B2", "B3", "B4"]
        assert content["statistics"]["interactions"] == 11


class TestAmazon2018(ConverterContract):
    interactions = 36

    def converter(self):
        return AmazonPantry()

    def raw(self, folder):
        meta = [
            {"asin": "B0", "title": "Tea<br>bags &amp; more", "brand": "<b>T</b>",
             "category": ["Pantry", "Tea &amp; Co"], "description": ["One.", "<p>Two.</p>"],
             "price": "$12.99", "details": {"Color:": "Green"}},
            {"asin": "B1", "title": "", "price": ".a-box-inner{background-color:#fff}"},
        ]  # fmt: skip
        core, meta_name = "Prime_Pantry_5.json.gz", "meta_Prime_Pantry.json.gz"
        return {
            core: write_gz(folder / core, map(json.dumps, reviews(verified=True))),
            meta_name: write_gz(folder / meta_name, map(json.dumps, meta)),
        }

    def test_pieces_of_web_pages_are_cleaned(self, tmp_path):
        _, _, _, items = converted(self.converter(), self.raw(tmp_path), tmp_path / "out")
        assert items["B0"] == {
            "item_id": "B0", "title": "Tea bags & more", "brand": "T", "categories": "Pantry > Tea & Co",
            "color": "Green", "description": "One., Two.", "price": 12.99,
        }  # fmt: skip
        assert items["B1"]["title"] == "" and items["B1"]["price"] != items["B1"]["price"]  # no number: NaN

    def test_lamar_drops_items_without_title_and_can_sample(self, tmp_path):
        raw = self.raw(tmp_path)
        titles = [{"asin": f"B{i}", "title": f"Item {i}" if i else "&nbsp;"} for i in range(6)]
        raw = {
            "Pet_Supplies_5.json.gz": raw["Prime_Pantry_5.json.gz"],
            "meta_Pet_Supplies.json.gz": write_gz(tmp_path / "m.gz", map(json.dumps, titles)),
        }
        content, _, events, _ = converted(LaMARPet(), raw, tmp_path / "all")
        assert {i for _, i in events} == {f"B{i}" for i in range(1, 6)}
        assert [s["after"]["interactions"] for s in content["filters"]] == [36, 30, 30]
        half = LaMARPet(LaMARPet.Options(sample=0.5, sample_seed=1))
        sampled, *_ = converted(half, raw, tmp_path / "half")
        assert 0 < sampled["statistics"]["users"] < 6 and sampled["options"]["sample"] == 0.5


class TestMovieLens1M(ConverterContract):
    interactions = 6

    def converter(self):
        return MovieLens1M()

    def raw(self, folder):
        ratings = "1::3::5::1000\n1::1::4::999\n1::2::3::1000\n2::1::1::50\n2::1::1::50\n2::3::2::2000\n"
        movies = "1::Toy Story (1995)::Animation|Comedy\n2::Mis\xe9rables, Les (1995)::Drama\n3::No year::Drama\n"
        (folder / "ratings.dat").write_bytes(ratings.encode("latin-1"))
        (folder / "movies.dat.gz").write_bytes(gzip.compress(movies.encode("latin-1")))
        return {"ratings.dat": folder / "ratings.dat", "movies.dat": folder / "movies.dat.gz"}

    def test_rows(self, tmp_path):
        content, inter, events, items = converted(self.converter(), self.raw(tmp_path), tmp_path / "out")
        assert events == [("1", "1"), ("1", "3"), ("1", "2"), ("2", "1"), ("2", "1"), ("2", "3")]
        assert inter.rating.tolist() == [4, 5, 3, 1, 1, 2]
        assert items["2"] == {"item_id": "2", "title": "Les Mis\u00e9rables", "year": "1995", "genres": "Drama"}
        assert items["3"]["title"] == "No year" and items["3"]["year"] == ""
        assert content["duplicates"] == {"identical": 1, "repeated_pairs": 1, "removed": 0}

    def test_duplicates_can_be_dropped(self, tmp_path):
        converter = MovieLens1M(MovieLens1M.Options(duplicates="drop"))
        content, _, events, _ = converted(converter, self.raw(tmp_path), tmp_path / "out")
        assert len(events) == 5 and content["duplicates"]["removed"] == 1

    def test_the_zip_is_read_in_place(self, tmp_path):
        raw = self.raw(tmp_path)
        with zipfile.ZipFile(tmp_path / "any.zip", "w") as archive:
            archive.write(raw["ratings.dat"], "ml-1m/ratings.dat")
            archive.writestr("ml-1m/movies.dat", gzip.decompress(raw["movies.dat"].read_bytes()))
        zipped = dict.fromkeys(raw, tmp_path / "any.zip")
        assert converted(self.converter(), raw, tmp_path / "a")[1:] is not None
        convert(self.converter(), zipped, tmp_path / "b", "d", progress=False)
        for name in ("d.inter", "d.item"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    def test_ten_minute_sessions(self, tmp_path):
        """Times 0, 599 | 600 for bins; 0, 599 | 600 for windows; no cut for gaps."""
        rows = [f"{u}::{i}::5::{t}" for u in range(5) for i, t in ((1, 0), (2, 599), (3, 600), (1, 700), (9, 5000))]
        raw = self.raw(tmp_path)
        raw["ratings.dat"].write_text("\n".join(rows))
        for rule, sessions in (("bin", [[1, 2], [3, 1]]), ("window", [[1, 2], [3, 1]]), ("gap", [[1, 2, 3, 1]])):
            converter = MovieLens1M10Min(MovieLens1M10Min.Options(rule=rule))
            _, _, events, _ = converted(converter, raw, tmp_path / rule)
            found = {}
            for user, item in events:
                found.setdefault(user, []).append(int(item))
            assert [s for u, s in found.items() if u.startswith("0-")] == sessions, rule
            assert "0-1" in found and len(found) == 5 * len(sessions)


def test_natural_titles():
    assert natural_title("Usual Suspects, The") == "The Usual Suspects"
    assert natural_title("Postino, Il (Postman, The)") == "Il Postino (Postman, The)"
    assert natural_title("Vie est belle, L'") == "L'Vie est belle"
    assert natural_title("Good, the Bad and the Ugly") == "Good, the Bad and the Ugly"


def test_ml_100k_is_the_wheels_file_byte_for_byte(tmp_path):
    """So that losses can be compared with stock RecBole's; ties keep its order."""
    converter = MovieLens100K()
    folder = next(iter(converter.raw_folders()), None)
    if folder is None:
        pytest.skip("RecBole is not installed")
    raw = {f.name: folder / f.name for f in converter.files}
    content, _, _, items = converted(converter, raw, tmp_path / "out")
    assert (tmp_path / "out" / "d.inter").read_bytes() == (folder / "ml-100k.inter").read_bytes()
    assert content["events"]["tied_with_previous"] == 50_561
    assert [r["publisher"] for r in content["raw"]] == [True, True]
    assert items["543"]["title"] == "Les Misérables"
    assert items["12"] == {"item_id": "12", "title": "The Usual Suspects", "year": "1995", "genres": "Crime, Thriller"}
    assert (items["267"]["title"], items["267"]["year"], items["267"]["genres"]) == ("", "", "")
    assert items["1412"]["title"] == "Land Before Time III: The Time of the Great Giving"
    assert items["1412"]["year"] == "1995" and items["1373"]["genres"] == ""
    assert content["items"]["without_any_text"] == 1


class TestSteam(ConverterContract):
    interactions = 44

    def converter(self):
        return steam.Steam()

    def raw(self, folder):
        names = ["null", '"Quoted" one', "tab\tname", "plain", "Ünï", "x"]
        lines = [
            f"{{u'username': {name!r}, u'hours': 0.1, u'product_id': u'{i}', u'date': u'2017-12-{10 + i // 2}', "
            "u'text': u'It\\'s \"{fine}\"\\n'}"
            for name in names
            for i in range(7)
        ]
        lines += ["{u'username': u'x', u'product_id': u'none', u'date': u'2018-01-01'}"] * 2
        games = [
            {"id": str(i), "title": f"Game {i}", "genres": ["Action", "Indie"], "tags": ["Fun"],
             "price": "Free To Play", "developer": "D", "publisher": "P"}
            for i in range(6)
        ]  # fmt: skip
        games += [{"app_name": "no id"}, {"id": "6", "app_name": "Game 6", "genres": ["Action"], "tags": []}]
        return {
            "steam_reviews.json.gz": write_gz(folder / "steam_reviews.json.gz", lines),
            "steam_games.json.gz": write_gz(folder / "steam_games.json.gz", map(repr, games)),
        }

    def test_games_without_tags_go_and_names_survive(self, tmp_path):
        content, inter, events, items = converted(self.converter(), self.raw(tmp_path), tmp_path / "out")
        assert content["statistics"]["interactions"] == 36 and set(items) == {str(i) for i in range(6)}
        assert content["filters"][0]["step"] == "items with title, genres, tags"
        assert {u for u, _ in events} == {"%6Eull", '%22Quoted" one', "tab%09name", "plain", "Ünï", "x"}
        assert content["tokens"]["users_respelt"] == 3
        assert inter.time[0] == 1512864000  # 2017-12-10 UTC
        assert items["0"]["genres"] == "Action, Indie" and items["0"]["price"] != items["0"]["price"]


class TestAmazonM2(ConverterContract):
    interactions = 7

    def converter(self):
        return amazon_m2.AmazonM2UK()

    def raw(self, folder):
        (folder / "sessions_train.csv").write_text(
            "prev_items,next_item,locale\n\"['B1' 'B2']\",B3,UK\n\"['X' 'Y']\",Z,DE\n\"['B2' 'B2'\n 'B4']\",B1,UK\n"
        )
        (folder / "products_train.csv").write_text(
            "id,locale,title,price,brand,color,size,model,material,author,desc\n"
            'B1,UK,"Lamp, ""large""",9.5,Lumo,red,,M1,,,Bright\nB1,DE,Lampe,9.5,Lumo,rot,,,,,Hell\n'
            "B2,UK,Bulb,1,,,,,,,\n"
        )
        return {name: folder / name for name in ("sessions_train.csv", "products_train.csv")}

    def test_sessions(self, tmp_path):
        content, inter, events, items = converted(self.converter(), self.raw(tmp_path), tmp_path / "out")
        assert events == [
            ("s1", "B1"),
            ("s1", "B2"),
            ("s1", "B3"),
            ("s3", "B2"),
            ("s3", "B2"),
            ("s3", "B4"),
            ("s3", "B1"),
        ]
        assert inter.time.tolist() == list(range(7)) and inter.order.tolist() == [1, 2, 3, 1, 2, 3, 4]
        assert items["B1"]["title"] == 'Lamp, "large"' and items["B1"]["description"] == "Bright"
        assert content["items"]["not_described"] == 2


@pytest.mark.parametrize("text", ["['a' 'b']", "['a', 'b']", "[\"a\" 'b']", "  ['a'\n 'b']\n"])
def test_item_lists_are_parsed_without_eval(text):
    assert amazon_m2.parse_items(text) == ["a", "b"]


@pytest.mark.parametrize("text", ["['a' b]", "__import__('os')", "['a'", "a", "", "['a'] + ['b']"])
def test_what_is_no_item_list_is_refused(text):
    with pytest.raises(ValueError, match="not a list"):
        amazon_m2.parse_items(text)


class TestCsv(ConverterContract):
    interactions = 5

    def converter(self):
        return Csv(
            CsvOptions(user_col="visitor", item_col="sku", time_col="when", text_cols=["name", "colour"], sep=";")
        )

    def raw(self, folder):
        (folder / "clicks.csv").write_text(
            'when;visitor;sku;note\n2024-01-02 00:00;v1;007;a\n2024-01-01;v1;8;"b;c"\n'
            "2024-01-01T12:00:00Z;v2;007;\n1970-01-01;v2;8;\n1970-01-01;v2;9;\n"
        )
        (folder / "products.csv").write_text('sku;name;colour;extra\n007;"Lamp\n""big""";red;1\n8;NaN;blue;2\n')
        return {"inter": folder / "clicks.csv", "items": folder / "products.csv"}

    def test_rows(self, tmp_path):
        content, inter, events, items = converted(self.converter(), self.raw(tmp_path), tmp_path / "out")
        assert events == [("v1", "8"), ("v1", "007"), ("v2", "8"), ("v2", "9"), ("v2", "007")]
        assert inter.time.tolist() == [1704067200, 1704153600, 0, 0, 1704110400]
        assert items["007"] == {"item_id": "007", "name": 'Lamp "big"', "colour": "red"}
        assert items["8"]["name"] == "" and items["9"]["colour"] == ""
        assert content["text_fields"] == ["name", "colour"]


class TestPlanted(ConverterContract):
    def converter(self):
        return Planted()

    def raw(self, folder):
        return {}

    def test_steps_obey_the_rule_as_often_as_asked(self):
        planted = Planted(Planted.Options(sessions=2000, obey=0.8))
        steps = [(a, b) for s in planted.sequences() for a, b in itertools.pairwise(s)]
        obeyed = sum(planted.follower(a) == b for a, b in steps) / len(steps)
        assert abs(obeyed - (0.8 + 0.2 / 40)) < 0.01
        assert sorted(map(planted.follower, range(40))) == list(range(40))
