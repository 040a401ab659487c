from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma

import pytest

from dataset_adapters.errors import AdapterError
from dataset_adapters.streams import Source, kind_of, numbered_lines

zstandard = pytest.importorskip("zstandard")
TEXT = "".join(f"line {n} é\n" for n in range(20_000)).encode()
PACK = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstandard": zstandard.ZstdCompressor().compress,
}


def read(path):
    source = Source("x", path)
    return [line for _, line in numbered_lines(source, False)], source


@pytest.mark.parametrize("kind", PACK)
def test_every_packing_gives_the_same_lines_and_the_digest_of_the_file(kind, tmp_path):
    path = tmp_path / "file.whatever"  # the name does not matter
    path.write_bytes(PACK[kind](TEXT))
    lines, source = read(path)
    assert b"".join(lines) == TEXT and kind_of(path) == kind
    assert (
        source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and source.size == path.stat().st_size
    )


@pytest.mark.parametrize("kind", ["gzip", "zstandard", "xz", "bzip2"])
def test_parts_joined_as_cat_does(kind, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(PACK[kind](TEXT[:1000]) + PACK[kind](TEXT[1000:]))
    assert b"".join(read(path)[0]) == TEXT


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstandard"])
@pytest.mark.parametrize("share", [0.3, 0.999])
def test_truncated(kind, share, tmp_path):
    packed = PACK[kind](TEXT)
    path = tmp_path / "cut"
    path.write_bytes(packed[: int(len(packed) * share)])
    with pytest.raises(AdapterError, match=r"cut: is damaged or cut short after line \d+"):
        read(path)


def test_corrupted_gzip(tmp_path):
    packed = bytearray(gzip.compress(TEXT))
    packed[len(packed) // 2] ^= 0xFF
    path = tmp_path / "bad.gz"
    path.write_bytes(packed)
    with pytest.raises(AdapterError, match="damaged"):
        read(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"PK\x03\x04rest", "zip archive"),
        ("a,b".encode("utf-16"), "UTF-16"),
        (b"PAR1rest", "Parquet"),
    ],
)
def test_files_of_another_kind(data, reason, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(AdapterError, match=reason):
        read(path)


def test_missing_file(tmp_path):
    with pytest.raises(AdapterError, match="No such file"):
        kind_of(tmp_path / "nowhere")


def test_endless_line(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset_adapters.streams.MAX_LINE", 1000)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"short\n" + b"x" * 5000))
    with pytest.raises(AdapterError, match=r"bomb\.gz:2: the line is longer"):
        read(path)


def test_byte_order_mark(tmp_path):
    path = tmp_path / "bom.csv"
    path.write_bytes(b"\xef\xbb\xbfuser\n")
    assert read(path)[0] == [b"user\n"]


def test_zstandard_reviews_end_to_end(convert, tmp_path):
    rows = [
        {
            "user_id": f"u{n % 5}",
            "parent_asin": f"p{n % 7}",
            "timestamp": 1_600_000_000_000 + n,
            "rating": 5.0,
        }
        for n in range(90)
    ]
    path = tmp_path / "Toys.jsonl.zst"
    path.write_bytes(PACK["zstandard"]("".join(json.dumps(r) + "\n" for r in rows).encode()))
    assert convert("amazon2023", "--input", path).card("amazon2023-toys")["statistics"]["interactions"] == 90
