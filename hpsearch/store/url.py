"""Where the studies are: what a storage URL says. Passwords reach no message."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from hpsearch.errors import StorageError, nearest
from hpsearch.files.paths import regular

DEFAULT_STORAGE = "sqlite:///runs/hpsearch.db"
HIDDEN = "***"  # stands for a password
_FILE = "sqlite:///"
_SUFFIXES = (".db", ".sqlite", ".sqlite3")

# What users write -> SQLAlchemy's name, the driver's module, the extra that installs it.
DRIVERS = {
    "sqlite": ("sqlite", "pysqlite", ""),
    "postgresql": ("postgresql+psycopg", "psycopg", "postgres"),
    "postgres": ("postgresql+psycopg", "psycopg", "postgres"),
    # Optuna has upserts for the dialect "mysql" only; MariaDB speaks it.
    "mysql": ("mysql+pymysql", "pymysql", "mysql"),
    "mariadb": ("mysql+pymysql", "pymysql", "mysql"),
}

# As SQLAlchemy reads it, whose import takes longer than a look at the studies.
_PARTS = re.compile(
    r"(?P<name>[\w+]+)://(?:(?P<user>[^:/]*)(?::(?P<password>[^@]*))?@)?"
    r"(?:(?:\[(?P<ipv6>[^/?]+)\]|(?P<host>[^/:?]+))?(?::(?P<port>[^/?]*))?)?(?:/(?P<database>[^?]*))?"
    r"(?:\?(?P<query>.*))?"
)


@dataclass(frozen=True, slots=True)
class DatabaseURL:
    """A storage URL in its parts; `kind` is sqlite, postgresql or mysql, `name` what SQLAlchemy calls that."""

    kind: str
    name: str
    user: str | None
    password: str | None
    host: str | None
    port: int | None
    database: str
    query: Mapping[str, str | tuple[str, ...]]
    text: str

    @property
    def file(self) -> Path:
        """The SQLite file."""
        return Path(self.database)

    @property
    def shown(self) -> str:
        """The URL as it may be shown."""
        return redact(self.text)


def parse(text: str) -> DatabaseURL:
    """Returns a storage URL, or a path of an SQLite file, in its parts.

    Raises:
        StorageError: with one sentence, never holding the password.
    """
    text = as_url(text)
    found = _PARTS.match(text)
    port = (found["port"] if found else None) or None
    if found is None or not (port is None or port.isdecimal()):
        raise StorageError(
            f"storage {redact(text)!r} is not a URL: write {DEFAULT_STORAGE} or "
            "postgresql://user:password@host/database (special characters of a password escaped as %40)"
        )
    host = found["ipv6"] or found["host"]
    if "@" in (host or ""):  # the rest of a password, which is then no secret to any message
        raise StorageError(f"storage {redact(text)!r}: the password holds an unescaped @; write it as %40")
    backend, _, driver = found["name"].partition("+")
    if backend not in DRIVERS:
        raise StorageError(
            f"storage {redact(text)!r}: unknown database {backend!r}; {nearest(backend, DRIVERS)}"
        )
    name, module, extra = DRIVERS[backend]
    if driver and driver != module:
        raise missing_driver(text, driver, backend, extra)
    user, password, database = (
        unquote(part) if part else part for part in found.group("user", "password", "database")
    )
    if backend == "sqlite" and (database or ":memory:").startswith((":memory:", "file:")):
        raise StorageError(f"storage {redact(text)!r}: name a file, for example {DEFAULT_STORAGE}")
    query: dict[str, tuple[str, ...]] = {}
    for key, value in parse_qsl(found["query"] or ""):
        query[key] = (*query.get(key, ()), value)
    return DatabaseURL(
        kind=name.partition("+")[0],
        name=name,
        user=user,
        password=password,
        host=host,
        port=None if port is None else int(port),
        database=database or "",
        query={key: values[0] if len(values) == 1 else values for key, values in query.items()},
        text=text,
    )


def missing_driver(text: str, module: str, backend: str, extra: str) -> StorageError:
    """Returns the sentence about a driver that is not installed, or is not ours."""
    return StorageError(
        f"storage {redact(text)!r}: the driver {module!r} cannot be used; write {backend}://... "
        f'and run pip install "hpsearch[{extra}]"'
    )


def as_url(text: str) -> str:
    """Returns the URL that a text means: the path of an SQLite file stands for itself."""
    text = text.strip()
    return f"{_FILE}{text}" if "://" not in text and text.endswith(_SUFFIXES) else text


def database_in(run_folder: Path) -> str:
    """Returns the URL of the database that lies in a run folder unless another is named."""
    return f"{_FILE}{run_folder / 'hpsearch.db'}"


def sqlite_file(url: str) -> Path | None:
    """Returns the file that a URL names; None for a server."""
    return Path(url.removeprefix(_FILE)) if url.startswith(_FILE) else None


def absolute(url: str) -> str:
    """Returns a URL as it may be shown, with which the database is found from every folder."""
    file = sqlite_file(url)
    return redact(url) if file is None else f"{_FILE}{file.absolute()}"


def redact(url: str) -> str:
    """Returns the URL with every password in it replaced by `***`.

    A password that holds unescaped `@`, `/` or `?` is covered whole: better too much hidden than too little.
    """
    hidden = re.sub(r"(://[^:/@]*|^(?!\S*://)[^:/@]*):.*@", rf"\1:{HIDDEN}@", url, flags=re.DOTALL)
    return re.sub(r"(?i)([?&](?:\w*password|passwd)=)[^&]*", rf"\1{HIDDEN}", hidden)


def read_storage_url(
    option: str | None, file: Path | None, environ: Mapping[str, str], default: str = DEFAULT_STORAGE
) -> str:
    """Returns the storage URL from the flags, else from the environment, else the default.

    A URL with a password belongs into a file (`--storage-file`) or the environment: other users of the
    machine can read a process's arguments.
    """
    if option and file:
        raise StorageError("--storage and --storage-file: give only one of them")
    if option:
        return as_url(option)
    if file:
        return _url_in(file, "--storage-file")
    if url := environ.get("HPSEARCH_STORAGE"):
        return as_url(url)
    if name := environ.get("HPSEARCH_STORAGE_FILE"):
        return _url_in(Path(name), "HPSEARCH_STORAGE_FILE")
    return default


def _url_in(file: Path, source: str) -> str:
    try:
        text = regular(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"{source}: cannot read {file}: {reason}") from None
    if not text or "\n" in text:
        raise StorageError(f"{source}: {file} must hold one line, the storage URL")
    return as_url(text)
