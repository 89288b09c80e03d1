"""Item text: ``.item`` read by ourselves, keyed by the item's original token, and rendered to one text an item.

RecBole's reader tokenises text columns into ids, fails on an unbalanced quote and takes gigabytes for long
descriptions; here a line is split at tabs and nothing else is interpreted.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recbole_llm.errors import UserError, nearest

ITEM_ID = "item_id"
#: What a text may say of an item, in the order of the default text, and the columns that say it.
ROLES: dict[str, tuple[str, ...]] = {
    "title": ("title", "movie_title", "item_name", "name"),
    "brand": ("brand",),
    "category": ("category", "categories", "genre", "genres", "class", "tags"),
    "colour": ("colour", "color"),
    "price": ("price",),
    "description": ("description", "desc"),
}
_MISSING = {"", "nan", "NaN"}


@dataclass
class ItemFile:
    """A ``.item`` file.

    Attributes:
        columns: field name → RecBole type (``token``, ``token_seq``, ``float``, ``float_seq``), without ``item_id``.
        items: token → the fields that are present.
        duplicates: tokens that stand there more than once; the first row counts, as in RecBole.
    """

    path: Path
    columns: dict[str, str]
    items: dict[str, dict[str, str]] = field(default_factory=dict)
    duplicates: list[str] = field(default_factory=list)


def read_item_file(path: str | Path, fields: Iterable[str] | None = None) -> ItemFile:
    """Reads a ``.item`` file (UTF-8, tab-separated, header ``item_id:token<TAB>title:token_seq…``).

    Args:
        fields: columns to keep; ``None`` keeps all.

    Raises:
        UserError: the file is missing or not UTF-8, its header is not RecBole's, a line has another number of
            columns or no item id (the line is named), a wanted field is not among its columns.
    """
    path = Path(path)
    try:
        lines = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise UserError(
            f"There is no {path}, so the items have no text.",
            f"Convert the dataset (recbole-llm convert {path.stem}), or write that file: item_id, title …",
        ) from None
    except OSError as e:
        raise UserError(f"Cannot read {path}: {e.strerror}.") from None
    with lines:
        names, types = _header(path, _decode(path, 1, next(lines, b"")))
        wanted = [n for n in names if n != ITEM_ID]
        if fields is not None:
            wanted = [_known(path, f, wanted) for f in dict.fromkeys(fields)]
        file = ItemFile(path, {n: types[n] for n in wanted})
        at_id, at = names.index(ITEM_ID), [(n, names.index(n)) for n in wanted]
        for number, raw in enumerate(lines, 2):
            cells = _decode(path, number, raw).split("\t")
            if len(cells) != len(names):
                if cells == [""]:
                    continue
                raise UserError(
                    f"{path}, line {number}: {len(cells)} columns where the header has {len(names)}.",
                    "A tab or a newline inside a text breaks the line; `recbole-llm validate` lists every such line.",
                )
            token = cells[at_id].strip()
            if token in _MISSING:
                raise UserError(f"{path}, line {number}: there is no item id.", "Every line needs one.")
            if token in file.items:
                file.duplicates.append(token)
                continue
            row = {n: cells[i].strip() for n, i in at}
            file.items[token] = {n: v for n, v in row.items() if v not in _MISSING}
    return file


def read_items(path: str | Path, fields: Iterable[str] | None = None) -> dict[str, dict[str, str]]:
    """``{token: {field: text}}`` of a ``.item`` file, only the fields present; see :func:`read_item_file`."""
    return read_item_file(path, fields).items


def default_fields(columns: Iterable[str]) -> list[str]:
    """The columns the default text is made of: one a role of :data:`ROLES`, in that order."""
    columns = set(columns)
    found = (next((c for c in names if c in columns), None) for names in ROLES.values())
    return [c for c in found if c is not None]


def resolve_fields(path: Path, fields: Sequence[str] | None, columns: Iterable[str]) -> list[str]:
    """Columns for ``fields`` as a user names them: a column, or another name of its role
    (``category`` finds ``genres``).

    Raises:
        UserError: neither, with the nearest column; or ``None`` and no column is known to be text.
    """
    columns = list(columns)
    if fields is None:
        found = default_fields(columns)
        if not found:
            raise UserError(
                f"{path} has no column known to be item text (title, brand, category …).",
                f"Name some with text_fields. It has: {', '.join(columns) or 'only item_id'}.",
            )
        return found
    if isinstance(fields, str):
        fields = [fields]
    if not fields:
        raise UserError("text_fields is empty, so items would have no text.", "Name a column, or leave the key out.")
    resolved = []
    for name in fields:
        alias = next((c for c in ROLES.get(role_of(name), ()) if c in columns), None)
        resolved.append(alias if name not in columns and alias else _known(path, name, columns))
    return list(dict.fromkeys(resolved))


def template_fields(template: str) -> list[str]:
    """The fields of a template such as ``"{title} by {brand}"``, in order.

    Raises:
        UserError: it is not a template of plain ``{field}`` parts (no attributes, indices or formats).
    """
    hint = 'Write fields as {name}, such as text_template: "{title} by {brand}"; a brace itself is {{ or }}.'
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as e:
        raise UserError(f"text_template {template!r} is not a template: {e}.", hint) from None
    found = []
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if not re.fullmatch(r"\w+", name) or spec or conversion:
            raise UserError(f"text_template {template!r} holds '{{{name}}}', which is not a plain field.", hint)
        found.append(name)
    if not found:
        raise UserError(f"text_template {template!r} names no field: all items would have the same text.", hint)
    return list(dict.fromkeys(found))


def render(item: Mapping[str, str], fields: Sequence[str], template: str | None = None) -> str:
    """The text of one item; empty where it has none of what is asked.

    Without a template: one line ``role: value`` for each of ``fields`` that is present (``title: …``, ``brand: …``
    [SemSR, models.md 2.1]); a single field is written bare [Boz et al.: the product name only].
    With one: each of its lines whose fields are all present, so ``"{title}\\nby {brand}"`` is the title alone for
    an item without brand.
    """
    if template is None:
        present = [(f, item[f]) for f in fields if item.get(f)]
        return "\n".join(v if len(fields) == 1 else f"{role_of(f)}: {v}" for f, v in present)
    kept = []
    for line in template.replace("\\n", "\n").split("\n"):
        names = [n for _, n, _, _ in string.Formatter().parse(line) if n is not None]
        if all(item.get(n) for n in names):
            kept.append(line.format_map(item))
    filled = [k for k in kept if k.strip()]
    return "\n".join(filled)


@dataclass
class ItemTexts:
    """The texts of a dataset's items.

    Attributes:
        texts: token → text, only items that have one.
        fields: the columns used.
        duplicates: tokens with more than one row in ``.item``.
        generated: column → its file, of those columns used that were generated.
        records: token → column → value, in the order of ``fields``, of the same items; columns it has a value in.
    """

    texts: dict[str, str]
    fields: list[str]
    duplicates: list[str]
    generated: dict[str, Path] = field(default_factory=dict)
    records: dict[str, dict[str, str]] = field(default_factory=dict)


def item_texts(
    path: str | Path,
    tokens: Iterable[str],
    fields: Sequence[str] | None = None,
    template: str | None = None,
    generated: Mapping[str, Path] | None = None,
) -> ItemTexts:
    """The text of each of ``tokens`` that has one, from the dataset's ``.item`` file.

    Args:
        generated: further columns, each in a file of its own (:mod:`recbole_llm.text.columns`); a column of the
            dataset's own file goes before.

    Raises:
        UserError: as :func:`read_item_file`, :func:`resolve_fields`, :func:`template_fields`; or the file has
            none of ``tokens`` (it is another dataset's).
    """
    path = Path(path)
    columns = read_columns(path)
    beside = {c: p for c, p in (generated or {}).items() if c not in columns}
    columns = columns | dict.fromkeys(beside, "token_seq")
    names = None if template is None else template_fields(template)
    if names is None:
        fields = resolve_fields(path, fields, columns if fields is not None else set(columns) - set(beside))
        name_of = {column: column for column in fields}
    else:  # the template may name roles
        name_of = {resolve_fields(path, [name], columns)[0]: name for name in names}
        fields = list(name_of)
    file = read_item_file(path, [f for f in fields if f not in beside])
    used = {f: beside[f] for f in fields if f in beside}
    for column, at in used.items():
        for token, said in read_items(at, [column]).items():
            file.items.setdefault(token, {}).update(said)
    tokens = list(tokens)
    known = [t for t in tokens if t in file.items]
    if tokens and not known:
        raise UserError(
            f"None of the dataset's {len(tokens)} items stands in {path} (the dataset has {_some(tokens)}; "
            f"the file has {_some(list(file.items))}).",
            "That file belongs to another dataset, or its item ids are written differently.",
        )
    texts = {t: render({name_of[c]: v for c, v in file.items[t].items()}, fields, template) for t in known}
    texts = {t: x for t, x in texts.items() if x.strip()}
    records = {t: {f: file.items[t][f] for f in fields if file.items[t].get(f)} for t in texts}
    return ItemTexts(texts, fields, file.duplicates, used, records)


def read_columns(path: Path) -> dict[str, str]:
    """Field → RecBole type of a ``.item`` file's header, without ``item_id``."""
    try:
        with open(path, "rb") as f:
            names, types = _header(path, _decode(path, 1, f.readline()))
    except FileNotFoundError:
        return read_item_file(path).columns  # raises the error that says what to do
    except OSError as e:
        raise UserError(f"Cannot read {path}: {e.strerror}.") from None
    return {n: types[n] for n in names if n != ITEM_ID}


def _header(path: Path, line: str) -> tuple[list[str], dict[str, str]]:
    pairs = [cell.strip().partition(":") for cell in line.split("\t")] if line else []
    names = [name for name, _, _ in pairs]
    if ITEM_ID not in names or any(not colon for _, colon, _ in pairs) or len(set(names)) != len(names):
        raise UserError(
            f"{path}, line 1: not the header of an atomic file: {line[:80]!r}.",
            "It must read item_id:token<TAB>title:token_seq … (each column once, with its type).",
        )
    return names, {name: kind for name, _, kind in pairs}


def _decode(path: Path, number: int, raw: bytes) -> str:
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as e:
        raise UserError(
            f"{path}, line {number}: byte {e.start + 1} is not UTF-8.", "Convert the file to UTF-8."
        ) from None
    return text.rstrip("\r\n")


def _known(path: Path, name: str, columns: Sequence[str]) -> str:
    if name in columns:
        return name
    close = nearest(name, columns)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"It has: {', '.join(columns) or 'only item_id'}."
    raise UserError(f"{path} has no column '{name}'.", f"{hint} `recbole-llm generate` makes further ones.")


def role_of(column: str) -> str:
    """What a column says of an item: a role of :data:`ROLES`, else its own name."""
    return next((role for role, names in ROLES.items() if column in names), column)


def _some(tokens: Sequence[str]) -> str:
    return ", ".join(tokens[:3]) + (", …" if len(tokens) > 3 else "")
