"""Steam, own tables and planted data, through the contract plugin authors use."""

import gzip
import itertools

from recbole_llm.datasets import steam
from recbole_llm.datasets.csv_source import Csv, CsvOptions
from recbole_llm.testing.converters import ConverterContract, converted
from recbole_llm.testing.planted import Planted


def write_gz(path, lines):
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in lines)
    return path


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
