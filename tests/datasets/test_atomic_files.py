"""Reading and writing atomic files."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.datasets import atomic
from recbole_llm.errors import UserError
from recbole_llm.files import whole_file

HEADER = "user_id:token\titem_id:token\ttimestamp:float\ttime:float\n"


@pytest.fixture
def inter(tmp_path):
    def write(body, header=HEADER):
        path = tmp_path / "d.inter"
        path.write_bytes((header + body).encode("utf-8") if isinstance(body, str) else header.encode() + body)
        return path

    return write


def test_columns_and_codes(inter):
    path = inter("u1\tNA\t1\t1700000000.5\nu2\tb\t1\t1700000001\nu1\tb\t2\t1.25\n")
    columns = atomic.read_columns(path, ["item_id", "time"])
    assert columns["item_id"].tolist() == ["NA", "b", "b"]
    assert columns["time"].tolist() == [1700000000.5, 1700000001.0, 1.25]
    read = atomic.read_inter(path)
    assert read.users.tokens[read.users.codes].tolist() == ["u1", "u2", "u1"]
    assert read.items.codes.tolist() == [0, 1, 1] and read.items.codes.dtype == np.int32
    assert read.order.tolist() == [1, 1, 2] and read.time.tolist() == [1700000000.5, 1700000001.0, 1.25]
    assert read.rating is None


def test_time_falls_back_to_timestamp(inter):
    path = inter("u\ta\t5\nu\tb\t4\n", "user_id:token\titem_id:token\ttimestamp:float\n")
    read = atomic.read_inter(path)
    assert read.order.tolist() == read.time.tolist() == [5, 4]


def test_without_times_rows_are_in_order(inter):
    read = atomic.read_inter(inter("u\ta\nu\tb\n", "user_id:token\titem_id:token\n"))
    assert read.order.tolist() == [0, 1]


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from(["u", "v", '"w']), st.sampled_from("abc"), st.floats(0, 1e10)),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 5),
)
def test_chunks_do_not_show(tmp_path_factory, rows, chunk):
    path = tmp_path_factory.mktemp("atomic") / "d.inter"
    with whole_file(path) as stream:
        stream.write("user_id:token\titem_id:token\ttimestamp:float\n")
        atomic.write_rows(stream, [[r[0] for r in rows], [r[1] for r in rows], [repr(r[2]) for r in rows]])
    read = atomic.read_inter(path, chunk=chunk)
    found = zip(read.users.tokens[read.users.codes], read.items.tokens[read.items.codes], read.order)
    assert [tuple(r) for r in found] == rows


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("u\ta\t1\t1\nu\ta\t1\n", "line 3 has 3 columns"),
        ("u\ta\t1\t1\n\nu\ta\t1\t1\t\n", "line 4 has 5 columns"),
        ("u\ta\t1\t1\nu\ta\t1\t1\t9", "line 3 has 5 columns"),
        ("u\t\t1\t1\n", "line 2: the column 'item_id' is empty"),
        ("u\ta\t1\t1\nu\ta\t\t1\n", "line 3: the column 'timestamp'"),
        ("u\ta\t1\tsoon\n", "soon"),
        ("u\ta\t1\tnan\n", "cannot be read"),
        ("u\ta\t1\tinf\n", "line 2: the column 'time'"),
        ("", "holds no interactions"),
        (b"u\xff\ta\t1\t1\n", "cannot be read"),
    ],
)
def test_a_broken_row_is_named(inter, body, says):
    with pytest.raises(UserError, match=says):
        atomic.read_inter(inter(body))


def test_line_numbers_hold_across_blocks(inter):
    path = inter("".join(f"u{n}\ta\t1\t1\n" for n in range(1000)) + "u\ta\n")
    for block in (7, 64, 100_000):
        with pytest.raises(UserError, match="line 1002 has 2 columns"):
            atomic.check_width(path, 4, block)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("user_id\titem_id\n", "column 1: 'user_id' has no type"),
        ("user_id:token\titem_id:word\n", "column 2: 'item_id:word' has no type"),
        ("user_id:token\tuser_id:token\n", "occurs twice"),
        ("", "is empty"),
    ],
)
def test_a_broken_header_is_explained(inter, header, says):
    with pytest.raises(UserError, match=says):
        atomic.read_header(inter("", header))


def test_a_missing_column_is_named(inter):
    with pytest.raises(UserError, match=r"no column 'rating'; it has user_id, item_id"):
        atomic.read_columns(inter("u\ta\t1\t1\n"), ["rating"])


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "d.inter"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as stream:
        stream.write("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["d.inter"]


def test_a_disk_fault_is_a_user_error(tmp_path):
    path = tmp_path / "d.inter"
    with pytest.raises(UserError, match="No space left"), whole_file(path):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_writing_below_a_file_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"), whole_file(tmp_path / "file" / "d.inter"):
        pass
