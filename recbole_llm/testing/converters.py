"""The contract of a dataset converter as a test class: subclass it, say how to build one, run pytest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from recbole_llm.datasets import atomic, manifest, validate
from recbole_llm.datasets.contracts import Converter
from recbole_llm.datasets.convert import convert


class Converted(NamedTuple):
    """What a conversion wrote.

    Attributes:
        content: the manifest.
        inter: the columns of ``.inter``.
        events: ``(user, item)`` tokens, row by row.
        items: item token → its row of ``.item``, texts as ``str``, numbers as float (NaN: none).
    """

    content: dict[str, Any]
    inter: atomic.InterColumns
    events: list[tuple[str, str]]
    items: dict[str, dict[str, Any]]


def converted(converter: Converter, raw: Mapping[str, Path], folder: Path, name: str = "d") -> Converted:
    """Converts into ``folder`` and reads back what was written."""
    content = convert(converter, raw, folder, name, progress=False)
    inter = atomic.read_inter(folder / f"{name}.inter")
    events = list(zip(inter.users.tokens[inter.users.codes], inter.items.tokens[inter.items.codes]))
    columns = atomic.read_columns(folder / f"{name}.item")
    items = {row[0]: dict(zip(columns, row)) for row in zip(*columns.values())}
    return Converted(content, inter, events, items)


class ConverterContract:
    """What every converter must do.

    A plugin's test::

        class TestShop(ConverterContract):
            def converter(self):
                return ShopConverter()

            def raw(self, folder):
                (folder / "clicks.json").write_text(...)
                return {"clicks.json": folder / "clicks.json"}
    """

    #: Interactions that the raw files of :meth:`raw` hold, if known.
    interactions: int | None = None

    def converter(self) -> Converter:
        """A converter, new for each call."""
        raise NotImplementedError("say which converter to test")

    def raw(self, folder: Path) -> dict[str, Path]:
        """Writes small raw files into ``folder``: ``{published name: path}``."""
        raise NotImplementedError("write small raw files")

    def _converted(self, folder: Path) -> tuple[Converter, dict[str, Path], dict[str, Any]]:
        source = folder / "raw"
        source.mkdir()
        converter, raw = self.converter(), self.raw(source)
        return converter, raw, convert(converter, raw, folder / "out", "data", progress=False)

    def test_it_is_described(self) -> None:
        converter = self.converter()
        assert isinstance(converter, Converter)
        assert isinstance(converter.name, str) and converter.name
        assert converter.order in ("rank", "publisher")
        assert set(converter.item_fields.values()) <= set(atomic.TYPES)
        assert set(manifest.text_fields(converter)) <= set(converter.item_fields)
        assert converter.label_field is None or converter.label_field in converter.item_fields

    def test_every_needed_raw_file_is_declared(self, tmp_path: Path) -> None:
        converter = self.converter()
        raw = self.raw(tmp_path)
        declared = {f.name for f in converter.files}
        assert not declared or set(raw) <= declared

    def test_atomic_files_are_valid(self, tmp_path: Path) -> None:
        self._converted(tmp_path)
        report = validate.validate(tmp_path / "out", "data")
        assert report.ok, "\n".join(map(str, report.findings))

    def test_counts_agree_with_the_files(self, tmp_path: Path) -> None:
        _, _, content = self._converted(tmp_path)
        columns = atomic.read_inter(tmp_path / "out" / "data.inter")
        counts = content["statistics"]
        assert counts["interactions"] == len(columns.order)
        assert counts["users"] == len(columns.users.tokens)
        assert counts["items"] == len(columns.items.tokens)
        if self.interactions is not None:
            assert content["read"]["interactions"] == self.interactions

    def test_item_file_holds_the_interacted_items_and_no_other(self, tmp_path: Path) -> None:
        self._converted(tmp_path)
        interacted = set(atomic.read_inter(tmp_path / "out" / "data.inter").items.tokens)
        described = atomic.read_columns(tmp_path / "out" / "data.item", ["item_id"])["item_id"].tolist()
        assert set(described) == interacted
        assert len(described) == len(interacted)

    def test_items_can_be_read_again(self, tmp_path: Path) -> None:
        converter, raw, _ = self._converted(tmp_path)
        wanted = set(atomic.read_inter(tmp_path / "out" / "data.inter").items.tokens)
        assert list(converter.read_items(raw, wanted)) == list(converter.read_items(raw, wanted))

    def test_only_wanted_items_are_read(self, tmp_path: Path) -> None:
        converter, raw, _ = self._converted(tmp_path)
        assert list(converter.read_items(raw, set())) == []

    def test_the_same_input_gives_the_same_files(self, tmp_path: Path) -> None:
        converter, raw, first = self._converted(tmp_path)
        second = convert(type(converter)(converter.options), raw, tmp_path / "again", "data", progress=False)
        assert first == second
