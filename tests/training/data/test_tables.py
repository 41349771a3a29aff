"""Tables as people and programs write them: understood, or answered with the remedy."""

from pathlib import Path

import pytest

from hpsearch.errors import DataError
from hpsearch.training.data.labels import column, read_table

HEAD = "file,label,note\n"


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        *(
            (f"{HEAD}a.png,x,dusk{odd} far\nb.png,y,ok\n".encode(), ["x", "y"])
            for odd in "\x85\u2028\u2029\x0c\x1c"
        ),
        (b"sep=;\nfile;label\na.png;x\nb.png;y\n", ["x", "y"]),
        (b"# made by hand\n\nfile,label\na.png,x\nb.png,y\n", ["x", "y"]),
        (b"File,LABEL\r\na.png,x\r\nb.png,y\r\n", ["x", "y"]),
        (b'file,label\na.png,"x, ""y"""\nb.png, "z"\n', ['x, "y"', "z"]),
        ("file\tlabel\na.png\té\n".encode("utf-16"), ["é"]),
    ],
)
def test_tables_that_are_understood(tmp_path: Path, content: bytes, labels: list[str]) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    assert column(read_table(path, "label", "file"), "label", path, "data.label_column") == labels


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b'file,label\na.png,"x\nb.png,y\n',
            r"line 3: unexpected end of data; is there a stray quotation mark",
        ),
        (b'# one\nfile,label\na.png,"x\n' + b"b.png,y\n" * 20_000, r"field larger than field limit.*stray"),
        (b'file,label\na.png,"x\nb.png,y"\n', r'row 2 has a "label" of 9 characters over 2 lines.*stray'),
        (b"file,label\na.png,\xe9\n", r"not UTF-8 in line 2 .*save it as CSV UTF-8"),
        (b"file,label\na.png,\0x\n", r"NUL character in line 2; save it"),
        (b"file,label\na.png," + b"x" * 2000 + b"\n", r"of 2000 characters.*stray"),
        (b"file,LABEL,Label\na.png,x,y\n", r'no column "label"'),
    ],
)
def test_tables_that_are_answered_with_the_remedy(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        column(read_table(path, "label", "file"), "label", path, "data.label_column")
