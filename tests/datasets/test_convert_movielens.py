"""MovieLens: ml-1m as published, cut into sessions, and ml-100k from the wheel."""

import gzip
import zipfile

import pytest

from recbole_llm.datasets.convert import convert
from recbole_llm.datasets.movielens import MovieLens1M, MovieLens1M10Min, MovieLens100K, natural_title
from recbole_llm.testing.converters import ConverterContract, converted


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
