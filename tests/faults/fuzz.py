"""Damaged inputs: every reader is given mutated files, and may only read them or refuse them in a sentence.

    python -m tests.faults.fuzz --inputs 100000

prints a table: reader, inputs, refused, faults, the longest reading, the most memory. Each reader has a process of
its own; the inputs depend on nothing but their numbers.
"""

import argparse
import contextlib
import functools
import gzip
import io
import json
import multiprocessing
import random
import re
import resource
import shutil
import signal
import sqlite3
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from hpsearch.errors import HpsearchError
from hpsearch.text import in_lines

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

ROOT = Path(__file__).parents[2]
HANG = 10  # seconds
MOST_MEMORY = 2.0  # GiB
_ADDRESSES = 32 << 30  # bytes: what protects the machine; faults are told by `MOST_MEMORY`

_NUMBERS = (
    b"0",
    b"-1",
    b"9" * 12,
    b"9" * 5000,
    b"1e999",
    b"-1e308",
    b"5e-324",
    b"nan",
    b"inf",
    b"null",
    b"true",
    b'"x"',
)
_PIECES = (
    *(
        b"\0",
        b"\xff" * 8,
        b'"',
        b"'",
        b"\n",
        b"\r",
        b"\x85",
        b"\xe2\x80\xa8",
        b"[" * 400,
        b"{",
        b"}",
        b"]",
        b",",
    ),
    *(
        b"=",
        b"..",
        b"/",
        b"\\",
        b"%s",
        b"\x7f\xff\xff\xff",
        b"\x80\0\0\0",
        b"a" * 3000,
        b"\xef\xbb\xbf",
        b"\xff\xfe",
    ),
)


@dataclass(frozen=True, slots=True)
class Reader:
    """Something that reads files.

    Args:
        seeds: makes the contents of whole files.
        read: reads a file; what it raises beside a HpsearchError (or what `refusals` names) is a fault.
        pack: makes a file of a mutated content, so that check sums fit.
        whole: whether the seeds themselves can be read.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], object]
    pack: Callable[[bytes], bytes] = bytes
    refusals: tuple[type[Exception], ...] = ()
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Tally:
    """What came of a reader's inputs.

    Attributes:
        faults: the first exceptions that are not sentences, and readings longer than `HANG`.
        longest: seconds.
        memory: GiB of the process at most.
    """

    reader: str
    inputs: int
    refused: int
    faults: dict[str, str]
    longest: float
    memory: float


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """Returns a content with one to four damages."""
    content = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = chance.randrange(len(content) + 1)
        length = chance.choice((1, 2, 8, 100, len(content)))
        match chance.randrange(7):
            case 0:
                content[place : place + 1] = bytes((chance.randrange(256),))
            case 1:
                content[place : place + length] = b""
            case 2:
                content[place:place] = content[place : place + length]
            case 3:
                del content[place:]
            case 4:
                content[place:place] = chance.choice(_PIECES)
            case 5:
                piece = chance.choice(_PIECES)
                content[place : place + len(piece)] = piece
            case _:
                numbers = list(re.finditer(rb"-?\d+(?:\.\d+)?", bytes(content)))
                if numbers:
                    found = chance.choice(numbers)
                    content[found.start() : found.end()] = chance.choice(_NUMBERS)
    return bytes(content)


def run(reader: Reader, inputs: int, folder: Path) -> Tally:
    """Gives a reader so many inputs, in this process."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    signal.signal(signal.SIGALRM, _hang)
    seeds, refused, longest = reader.seeds(), 0, 0.0
    faults: dict[str, str] = {}
    path = folder / "input"
    for seed in seeds:  # whole files are read, and all modules imported
        path.write_bytes(reader.pack(seed))
        with contextlib.suppress(*(() if reader.whole else (HpsearchError,))):
            reader.read(path)
    for number in range(inputs):
        chance = random.Random(f"{reader.name} {number}")
        path.write_bytes(reader.pack(mutated(chance.choice(seeds), chance)))
        begun = time.monotonic()
        try:
            signal.alarm(HANG)
            try:
                reader.read(path)
            finally:
                signal.alarm(0)
        except (HpsearchError, *reader.refusals) as error:
            refused += 1
            if not str(error) or "\0" in in_lines(str(error)):
                faults.setdefault(f"{type(error).__name__} without a sentence", f"input {number}")
        except Exception as error:
            place = _place(error)
            faults.setdefault(f"{type(error).__name__} at {place}", f"input {number}: {str(error)[:200]}")
        except _Hang:
            faults.setdefault("hang", f"input {number}")
        longest = max(longest, time.monotonic() - begun)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Tally(reader.name, inputs, refused, faults, round(longest, 2), round(memory, 2))


class _Hang(BaseException):
    """A reading takes too long."""


def _hang(number: int, frame: object) -> None:
    raise _Hang


def _place(error: BaseException) -> str:
    """Returns the last place in hpsearch that an exception has passed."""
    place, trace = "?", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "/hpsearch/" in file and "/tests/" not in file:
            place = f"{Path(file).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def run_apart(name: str, inputs: int) -> Tally:
    """Gives a reader so many inputs, in a process of its own."""
    context = multiprocessing.get_context("forkserver")  # it imports PyTorch once for all readers
    context.set_forkserver_preload(["torch", "torchvision", "hpsearch.training.saved", __spec__.name])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(name, inputs, theirs))
    process.start()
    theirs.close()
    try:
        told: Tally | str = ours.recv()
    except EOFError:
        told = "no word"
    process.join()
    if isinstance(told, Tally):
        return told
    return Tally(name, inputs, 0, {f"status {process.exitcode}": told}, 0.0, 0.0)


def _tell(name: str, inputs: int, channel: Connection) -> None:
    try:
        with tempfile.TemporaryDirectory() as folder:
            channel.send(run(READERS[name], inputs, Path(folder)))
    except BaseException as error:
        channel.send(f"{type(error).__name__} at {_place(error)}: {error}"[:500])
        raise


# Study files and stored specifications


def _study_files() -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT / "studies").glob("*.toml"))]


def _load_study(path: Path) -> None:
    from hpsearch.study.file import digest, load_study_file, stored_form

    spec = load_study_file(path)
    stored_form(spec)
    digest(spec)


def _stored() -> list[bytes]:
    from hpsearch.study.file import load_study_file, stored_form

    return [stored_form(load_study_file(path)).encode() for path in sorted((ROOT / "studies").glob("*.toml"))]


def _parse_stored(path: Path) -> None:
    from hpsearch.study.file import parse_stored

    parse_stored(path.read_text(encoding="utf-8", errors="replace"))


# Tables


def _csv() -> list[bytes]:
    rows = [f"{'ab'[i % 2]}/{i:03d}.png,{('red', 'green')[i % 2]},{i}" for i in range(40)]
    text = "\n".join(["file,label,age", *rows]) + "\n"
    quoted = text.replace("red", '"red; ""dark"""').replace("\n", "\r\n")
    marked = "sep=;\n# made by hand\n" + text.replace(",", ";").upper()
    return [
        text.encode(),
        quoted.encode(),
        marked.encode(),
        text.encode("utf-16"),
        text.replace("red", "réd").encode("utf-8-sig"),
    ]


def _star() -> list[bytes]:
    rows = "\n".join(f"{i + 1:06d}@stack.mrcs  {i % 2}  {i}.5" for i in range(40))
    return [
        b"data_optics\n\nloop_\n_rlnOpticsGroup #1\n1\n\n"
        b"data_particles\n\nloop_\n_rlnImageName #1\n_label #2\n_age #3\n" + rows.encode() + b"\n"
    ]


def _table(suffix: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        from hpsearch.training.data.labels import (
            column,
            file_column,
            label_columns,
            read_table,
            to_groups,
            to_targets,
        )

        named = path.rename(path.with_suffix(suffix))
        table = read_table(named, "label", "file")
        file_column(table, "file")
        to_targets(label_columns(table, ("label",), named), "auto", str(named))
        column(table, "age", named, "data.label_column")
        to_groups("column:age", (), table, str(named))

    return read


# Arrays


def _npy() -> list[bytes]:
    import numpy as np

    arrays = [np.arange(40 * 64, dtype=kind).reshape(40, 8, 8) for kind in ("uint8", "float32", ">u2")]
    arrays.append(np.asfortranarray(arrays[0].reshape(40, 4, 4, 4)[..., :3]))
    return list(map(_saved, arrays))


def _saved(array: object) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _npz() -> list[bytes]:
    return [_zipped(array, kind) for array in _npy() for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]


def _zipped(content: bytes, kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    import numpy as np

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        archive.writestr("x.npy", content)
        archive.writestr("y.npy", _saved(np.arange(40) % 2))
    return file.getvalue()


def _mrc() -> list[bytes]:
    import mrcfile
    import numpy as np

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("float32", "int16", "uint16", "int8"):
            path = Path(folder) / f"{kind}.mrcs"
            with mrcfile.new(path) as stack:
                stack.set_data(np.arange(40 * 64).reshape(40, 8, 8).astype(kind))
            found.append(path.read_bytes())
    return found


def _idx() -> list[bytes]:
    return [b"\0\0\x08\x03\0\0\0\x28\0\0\0\x08\0\0\0\x08" + bytes(range(256)) * 10]


def _images(dataset: str, suffix: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        from hpsearch.study.data import DataSpec
        from hpsearch.training.data.cache import Cache
        from hpsearch.training.data.catalogue import Request
        from hpsearch.training.data.stacks import MRC, NPY, NPZ

        named = path.rename(path.with_suffix(suffix))
        (path.parent / "labels.csv").write_text("label\n" + "a\nb\n" * 20)
        spec = DataSpec(dataset=dataset, labels=None if dataset == "npz" else "labels.csv")
        request = Request(spec, named, (), Cache(path.parent / "cache", 1.0), None)
        found = {"npz": NPZ, "npy": NPY, "mrc": MRC}[dataset].read(request)
        for _ in found.images.chunks((8, 8), 1):
            continue

    return read


def _read_idx(suffix: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        from hpsearch.training.data.arrays import read_idx

        read_idx(str(path.rename(path.with_suffix(suffix))))

    return read


# Pictures


def _pictures() -> list[bytes]:
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3))
    deep = Image.fromarray(np.arange(48 * 48, dtype=np.uint16).reshape(48, 48))
    made = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        file = io.BytesIO()
        picture.save(file, kind)
        made.append(file.getvalue())
    for kind in ("PNG", "TIFF"):
        file = io.BytesIO()
        deep.save(file, kind)
        made.append(file.getvalue())
    return made


def _read_picture(path: Path) -> None:
    from hpsearch.training.data.decode import Form, depth, open_picture, read_file
    from hpsearch.training.data.pictures import read_headers

    (header,) = read_headers(path.parent, [path.name], None)
    if isinstance(header, str):
        raise HpsearchError(header)
    with open_picture(path) as image:
        kind = depth(image)
    read_file(path, (16, 16), 3, form=Form("crop", "uint8" if kind == "uint8" else "float32"))


# Weights


def _weights() -> list[bytes]:
    import safetensors.torch
    import torch

    from hpsearch.study import ModelSpec
    from hpsearch.training import models

    texts = {
        "channels": "1",
        "height": "8",
        "width": "8",
        "outputs": "2",
        "classes": '["a", "b"]',
        "task": "classification",
        "mean": "[0.5]",
        "std": "[0.25]",
        "precision": "float32",
        "loss": "cross_entropy",
        "scale": "0.00392156862745098",
        "decoded_channels": "1",
        "resize": "crop",
        "stored": "uint8",
        "range": "null",
        "offset": "0.0",
        "source": "uint8",
        "normalize": "true",
        "layout": "auto",
        "dataset": "digits",
        "predict": "",
        "epoch": "3",
        "val_loss": "0.5",
    }
    made = []
    for name, arguments in (("cnn", {"width": 4, "hidden": 8}), ("mlp", {"hidden": [8]})):
        spec = ModelSpec(name=name, args=arguments)
        model = models.build(spec, 1, (8, 8), 2, 0)
        made.append(safetensors.torch.save(model.state_dict(), texts | {"model": spec.model_dump_json()}))
    torch.set_num_threads(1)
    return made


def _headed(content: bytes) -> bytes:
    """Returns a safetensors file whose first eight bytes fit its mutated header again."""
    end = content.find(b"}}", 8) + 2
    while end >= 2 and end < len(content) and content[end : end + 1] in (b"}", b" "):
        end += 1
    return max(0, end - 8).to_bytes(8, "little") + content[8:]


def _load_model(path: Path) -> None:
    from hpsearch.training.saved import load_model

    load_model(path, ())


def _torch_files() -> list[bytes]:
    import torch

    made = []
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save(
            {"state_dict": torch.nn.Linear(4, 2).state_dict()}, file, _use_new_zipfile_serialization=zipped
        )
        made.append(file.getvalue())
    return made


def _load_weights(path: Path) -> None:
    import torch

    from hpsearch.training.weights import load_weights

    load_weights(torch.nn.Linear(4, 2), path.rename(path.with_suffix(".pth")))


# Databases


def _databases() -> list[bytes]:
    from tests.results.stored import make_study

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "studies.db"
        make_study(f"sqlite:///{path}", "s")
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("PRAGMA journal_mode=DELETE")
        connection.close()
        return [path.read_bytes()]


def _read_database(path: Path) -> None:
    from hpsearch.results.stored.listing import list_studies
    from hpsearch.results.stored.reading import read_study
    from hpsearch.results.stored.status import study_status

    url = f"sqlite:///{path}"
    match zlib.crc32(path.read_bytes()) % 3:  # each opens the file anew, which takes most of the time
        case 0:
            list_studies(url, path.parent)
        case 1:
            study_status("s", url, path.parent)
        case _:
            read_study("s", url)


def _attributes() -> list[bytes]:
    return [b'"text"', b'[0.9, 0.5, "nan", null]', b'{"a": [1, 2.5, null, "b"]}', b"1.5", b"null"]


def _read_attributes(path: Path) -> None:
    """Puts a text in the place of attributes of a study and its trials."""
    whole = path.with_name("whole.db")
    if not whole.exists():
        whole.write_bytes(_databases()[0])
    text = path.read_bytes().decode(errors="replace")
    shutil.copy(whole, path)
    chance = random.Random(text)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        for table in ("study_user_attributes", "trial_user_attributes", "trial_system_attributes"):
            keys = [key for (key,) in connection.execute(f"SELECT DISTINCT key FROM {table}")]
            if keys and chance.random() < 0.7:
                connection.execute(
                    f"UPDATE {table} SET value_json = ? WHERE key = ?", (text, chance.choice(keys))
                )
    connection.close()
    _read_database(path)


def _unsaved() -> list[bytes]:
    from hpsearch.store.archive import Archive
    from hpsearch.store.connection import open_storage

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "studies.db"
        path.write_bytes(_databases()[0])
        storage, archive = open_storage(f"sqlite:///{path}"), Archive()
        study_id = storage.get_study_id_from_name("s")
        attrs = storage.get_study_user_attrs(study_id), storage.get_study_system_attrs(study_id)
        archive.know_study(*attrs)
        for trial in storage.get_all_trials(study_id):
            if trial.state.is_finished():
                archive.add(trial)
        storage.engine.dispose()
        archive.write(Path(folder) / "unsaved", "s", {}, ())
        return [(Path(folder) / "unsaved").read_bytes()]


def _restore(path: Path) -> None:
    """Brings trials back into a database that lacks the study."""
    from hpsearch.store.archive import restore
    from hpsearch.study.file import parse_stored

    storage, told = _lost_database(path.with_name("lost.db"))
    for study in storage.get_all_studies():
        storage.delete_study(study._study_id)
    restore(storage, parse_stored(told), path)


@functools.cache
def _lost_database(path: Path) -> tuple["RDBStorage", str]:
    """Returns an open database and the specification of its one study."""
    from hpsearch.store.connection import open_storage
    from hpsearch.store.keys import SPECIFICATION

    path.write_bytes(_databases()[0])
    storage = open_storage(f"sqlite:///{path}")
    (study,) = storage.get_all_studies()
    return storage, storage.get_study_user_attrs(study._study_id)[SPECIFICATION]


_PICTURE_REFUSALS = (OSError, ValueError, SyntaxError)  # what `open_picture` says that it raises

READERS = {
    reader.name: reader
    for reader in (
        Reader("study file", _study_files, _load_study),
        Reader("stored specification", _stored, _parse_stored),
        Reader("csv", _csv, _table(".csv")),
        Reader("star", _star, _table(".star")),
        Reader("npy", _npy, _images("npy", ".npy")),
        Reader("npz", _npz, _images("npz", ".npz")),
        Reader("npz, array", _npy, _images("npz", ".npz"), _zipped),
        Reader("mrc", _mrc, _images("mrc", ".mrcs")),
        Reader("idx", _idx, _read_idx(".idx")),
        Reader("idx, packed", _idx, _read_idx(".gz"), gzip.compress),
        Reader("picture", _pictures, _read_picture, refusals=_PICTURE_REFUSALS),
        Reader("weights", _weights, _load_model),
        Reader("weights, header", _weights, _load_model, _headed),
        Reader("torch file", _torch_files, _load_weights),
        Reader("database", _databases, _read_database),
        Reader("attribute", _attributes, _read_attributes, whole=False),
        Reader("unsaved trials", _unsaved, _restore),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--reader", choices=list(READERS), help="only this one, in this process, as JSON")
    options = parser.parse_args()
    if options.reader:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(asdict(run(READERS[options.reader], options.inputs, Path(folder)))))
        return
    print(f"{'reader':22}{'inputs':>9}{'refused':>9}{'faults':>8}{'longest':>10}{'memory':>10}")
    for name in READERS:
        told = run_apart(name, options.inputs)
        print(
            f"{told.reader:22}{told.inputs:9}{told.refused:9}{len(told.faults):8}{told.longest:8.2f} s"
            f"{told.memory:6.2f} GiB",
            flush=True,
        )
        for what, where in told.faults.items():
            print(f"    {what}: {where}", flush=True)


if __name__ == "__main__":
    main()
