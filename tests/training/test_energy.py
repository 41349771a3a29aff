"""Energy, read from counters as Linux has them, and what a study has taken altogether."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from hpsearch.__main__ import run as command
from hpsearch.results.report import build_report
from hpsearch.results.report.document import markdown
from hpsearch.service.run import run
from hpsearch.testing.in_process import InProcessExecutor
from hpsearch.training import energy
from tests.results.digits import options_in, small_spec
from tests.results.searches import record_of

CPU = torch.device("cpu")


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages, and what is counted in them already."""
    root = tmp_path / "powercap"
    for name, label in (("0", "package-0"), ("1", "package-1"), ("0:0", "core")):
        zone = root / f"intel-rapl:{name}"
        zone.mkdir(parents=True)
        (zone / "name").write_text(f"{label}\n")
        (zone / "max_energy_range_uj").write_text("1000000000\n")
        count(zone, 900e6)
    monkeypatch.setattr(energy, "POWERCAP", root)
    return root


def count(zone: Path, micro: float) -> None:
    beside = zone / "new"
    beside.write_text(f"{micro:.0f}\n")
    beside.replace(zone / "energy_uj")


def test_packages_are_added_up_and_begin_again_from_0(powercap: Path) -> None:
    meter = energy.meter(CPU)
    assert meter() == 0
    count(powercap / "intel-rapl:0", 903e6)
    count(powercap / "intel-rapl:0:0", 999e6)  # a part of the first
    assert meter() == pytest.approx(3)
    count(powercap / "intel-rapl:1", 50e6)
    assert meter() == pytest.approx(150)
    assert meter() == 0


def test_what_cannot_be_read_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, powercap: Path
) -> None:
    (powercap / "intel-rapl:1" / "energy_uj").unlink()
    meter = energy.meter(CPU)
    count(powercap / "intel-rapl:0", 901e6)
    assert meter() == pytest.approx(1)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "none")
    assert energy.meter(CPU)() == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_takes_energy() -> None:
    pytest.importorskip("pynvml")
    meter = energy.meter(torch.device("cuda"))
    large = torch.rand(4096, 4096, device="cuda")
    for _ in range(200):
        large = large @ large / 4096
    torch.cuda.synchronize()
    assert meter() > 0


@contextmanager
def taking(zone: Path) -> Iterator[list[int]]:
    """Takes 10 joules again and again; gives what was taken so far."""
    taken, over = [0], threading.Event()

    def take() -> None:
        while not over.wait(0.001):
            taken[0] += 10
            count(zone, 1e6 * taken[0])

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()


def test_a_studys_energy_and_price_are_told(
    tmp_path: Path, powercap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = options_in(tmp_path)
    count(powercap / "intel-rapl:0", 0)
    (powercap / "intel-rapl:0" / "max_energy_range_uj").write_text(f"{10**18}")
    with taking(powercap / "intel-rapl:0") as taken:
        run(small_spec(), options, executor=InProcessExecutor())
    record = record_of(tmp_path, small_spec().study.name)
    joules = sum(trial.attrs.get("joules", 0.0) for trial in record.trials)
    assert 0 < joules <= taken[0]
    hours = sum(trial.attrs["device_seconds"] for trial in record.trials) / 3600
    place = ["--storage", options.storage]
    capsys.readouterr()
    assert command(["status", record.name, "--price-per-hour", "1000", *place]) == 0
    said = capsys.readouterr().out
    assert (
        f"cost so far: device hours {hours:.3g}, energy {joules / 3.6e6:.3g} kWh ({joules:,.0f} J), " in said
    )
    assert f"price at 1000 an hour {1000 * hours:,.2f}" in said
    text = markdown(build_report(record.name, options.storage, price=1000.0))
    assert f"| price at 1000 an hour | {1000 * hours:,.2f} |" in text
    assert "price at" not in markdown(build_report(record.name, options.storage)).partition("## Cost")[2]
    assert command(["status", record.name, "--price-per-hour", "-1", *place]) == 2
