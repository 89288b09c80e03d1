"""Amazon's three releases on small raw files in the publisher's format, through the contract plugin authors use."""

import gzip
import json

import pytest

from recbole_llm.datasets import amazon_m2
from recbole_llm.datasets.amazon2014 import AmazonBeauty, AmazonBeautyOnePass
from recbole_llm.datasets.amazon2018 import AmazonPantry, LaMARPet
from recbole_llm.testing.converters import ConverterContract, converted


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
