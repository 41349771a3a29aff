"""What `hpsearch` offers to scripts and notebooks; the commands of the same names call these functions.

Arguments are named alike everywhere: `storage`, `run_folder`, `workers`, `trials`, `timeout` ... as the flags are.
Nothing heavy is imported before a function needs it; `run` starts its workers first.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch.contracts.callbacks import Callback
from hpsearch.contracts.executor import Workers
from hpsearch.contracts.places import Cluster
from hpsearch.errors import UserError
from hpsearch.results.commands.arguments import checked
from hpsearch.results.commands.track import require, trackers
from hpsearch.results.stored.result import StudyResult
from hpsearch.service.launch import RunOptions, launch, make_folder, worker_setup
from hpsearch.store.url import as_url, database_in
from hpsearch.study.file import as_study, is_study_file, named, with_limits
from hpsearch.study.specification import StudySpec

if TYPE_CHECKING:
    from hpsearch.results.commands.check import CheckResult
    from hpsearch.results.commands.imports import Imported
    from hpsearch.results.commands.predict import Prediction
    from hpsearch.results.confirm.confirm import Outcome
    from hpsearch.results.confirm.continuation import Continued
    from hpsearch.results.confirm.ensemble import Joined
    from hpsearch.results.confirm.refit import Refitted
    from hpsearch.results.dashboard.publisher import Publisher
    from hpsearch.results.terminal.display import Display
    from hpsearch.training.ensemble import SavedEnsemble
    from hpsearch.training.saved import SavedModel

logger = logging.getLogger(__name__)

Study = StudySpec | Mapping[str, Any] | str | Path
"""A study: `load_study_file`'s, the tables of one as a dict, the path of a file, or the name of a stored one."""


@checked
def run(
    study: Study,
    *,
    trials: int | None = None,
    timeout: str | float | None = None,
    at_timeout: str | None = None,
    workers: int | None = None,
    gpus: str = "auto",
    workers_per_gpu: int = 1,
    gpus_per_trial: int = 1,
    share: str = "time",
    executor: str = "local",
    cluster: Cluster | None = None,
    storage: str | None = None,
    run_folder: str | Path = "runs",
    data_root: str | None = None,
    allow: Sequence[str] | None = None,
    import_paths: Sequence[str] = (),
    storage_timeout: float = 600.0,
    lease_seconds: float = 60.0,
    metrics: str | int | None = None,
    callbacks: Sequence[Callback] = (),
    progress: "bool | Display" = True,
) -> StudyResult:
    """Runs a study, or resumes it, until it is finished or stopped, and returns what it has found.

        result = hpsearch.run("studies/digits.toml", storage="sqlite:///digits.db", workers=2)

    Args:
        study: see `Study`. Its own modules are looked for beside its file; those of a study without a file
            where the program that runs it has its own.
        trials, timeout, at_timeout: override the study's.
        workers: how many trials are trained at once; by default what GPUs or cores allow.
        executor: what runs the workers: "local", "slurm", "ray", "dial", or one that an installed package adds.
        cluster: how workers elsewhere are started and find this process, see `hpsearch.contracts.places.Cluster`.
        storage: URL of the database, or a path that ends in .db; by default it lies in the run folder.
        allow: modules that a stored study may name, beside what a file names; None trusts every name in it.
        import_paths: folders of the study's own modules.
        metrics: "PORT" or "HOST:PORT" where Prometheus can read the run's figures.
        callbacks: follow the run, see `hpsearch.Callback`.
        progress: False prints nothing; True shows what `hpsearch run` shows.

    Raises:
        UserError: study, data, model, device, storage, or an argument that does not exist; nothing was trained.
        HpsearchError: the run could not continue; what was trained is kept.
    """
    name, given = named(study)
    options = _options(study, given, storage=storage, run_folder=run_folder, data_root=data_root, allow=allow)
    fleet = Workers(gpus, workers, workers_per_gpu, gpus_per_trial)
    options = replace(options, workers=fleet, share=share, executor=executor, cluster=cluster or Cluster())
    options = replace(options, storage_timeout=storage_timeout, lease_seconds=lease_seconds)
    if import_paths:
        options = replace(options, import_paths=tuple(import_paths))
    spec = with_limits(given or _stored(name, options), trials, timeout, at_timeout)
    tracked = trackers(spec.track)
    with (
        _metrics(metrics) as served,
        _shown(progress, options.storage) as display,
        launch(spec, options) as launched,
    ):
        display.on_launch(spec.study.name, len(launched.places))
        # Only now, while the workers import torch: this process has as much to import.
        from hpsearch.results.dashboard.publisher import Publisher
        from hpsearch.service.run import drive

        publisher = Publisher(options.storage, options.run_folder)
        summary = drive(launched, [display, publisher, *served, *tracked, *callbacks])
    return StudyResult(spec.study.name, options.storage, summary, options.run_folder)


@checked
def check(
    study: Study,
    *,
    workers: int | None = None,
    device: str = "auto",
    gpus: str = "auto",
    executor: str = "local",
    cluster: Cluster | None = None,
    run_folder: str | Path = "runs",
    data_root: str | None = None,
    progress: bool = True,
) -> "CheckResult":
    """Checks a study without a search: reads its data, trains a few batches of each model, estimates the time.

    Args:
        workers: number of workers that the estimate is for.
        device: auto, cpu or cuda.
        executor: of "slurm" and "ray", one worker is started and must be ready.
        progress: whether reading the images is shown, on stderr.

    Raises:
        UserError: study, data, model or device.
    """
    began = time.monotonic()
    from hpsearch.executors.choose import CLUSTERS, make_executor
    from hpsearch.files.run_folder import RunFolder
    from hpsearch.results.commands.elsewhere import try_worker
    from hpsearch.results.terminal.check_lines import check_shown, told
    from hpsearch.training.imports import look_in

    spec = as_study(study)
    require(spec.track)
    look_in(_folders(study), spec.objects())
    cache = Path(run_folder) / "cache"
    if spec.data.dataset != "none" and not spec.data.cache:
        make_folder(cache)
    folder = RunFolder(Path(run_folder).absolute(), spec.study.name)
    runs = make_executor(executor, folder, cluster or Cluster())
    places = runs.places(Workers(gpus, workers), spec.train.threads, "time")
    try:
        report = check_shown(spec, data_root, cache, device, len(places), began, progress)
        if executor not in CLUSTERS:
            return report
        allow, paths = tuple(spec.objects()), tuple(_folders(study))
        options = RunOptions(run_folder=folder.root, data_root=data_root, import_paths=paths, allow=allow)
        make_folder(folder.home)
        setup = worker_setup(spec, options, folder, places[0])
        return replace(report, elsewhere=try_worker(runs, places[0], setup, folder, told(progress)))
    finally:
        runs.close(0.0)


@checked
def confirm(
    study: Study | None = None,
    *,
    top: int | None = None,
    seeds: int | None = None,
    folds: int | None = None,
    test: bool = True,
    workers: int | None = None,
    gpus: str = "auto",
    workers_per_gpu: int = 1,
    gpus_per_trial: int = 1,
    share: str = "time",
    executor: str = "local",
    cluster: Cluster | None = None,
    storage: str | None = None,
    run_folder: str | Path = "runs",
    data_root: str | None = None,
    allow: Sequence[str] | None = None,
    storage_timeout: float = 600.0,
    lease_seconds: float = 60.0,
    callbacks: Sequence[Callback] = (),
    progress: "bool | Display" = True,
) -> "Outcome":
    """Trains a study's best configurations again with other seeds, then tests them once.

    Args:
        study: see `Study`; by default the only one in the storage.
        top, seeds: number of configurations and of repeats of each; by default those of `[confirm]`.
        folds: repeat each over so many folds of the training and the validation part instead of over seeds.
        test: whether the test part may be opened.

    Other arguments as in `run`.

    Raises:
        UserError: no such study, nothing to confirm, other data than the search's, or what `run` raises.
        HpsearchError: the run could not continue; what was trained is kept.
    """
    from hpsearch.results.confirm.confirm import confirm as train

    name, given = named(study)
    options = _options(study, given, storage=storage, run_folder=run_folder, data_root=data_root, allow=allow)
    fleet = Workers(gpus, workers, workers_per_gpu, gpus_per_trial)
    options = replace(options, workers=fleet, share=share, executor=executor, cluster=cluster or Cluster())
    options = replace(options, storage_timeout=storage_timeout, lease_seconds=lease_seconds)
    with _followed(options, progress, callbacks) as (publisher, followers):
        found = train(
            name, options, top=top, seeds=seeds, folds=folds, test=test, given=given, callbacks=followers
        )
    if found.confirmation is not None:
        publisher.publish(found.record.name)
    return found


@checked
def refit(
    study: Study | None = None,
    *,
    search: bool = False,
    seeds: int | None = None,
    test: bool = True,
    gpus: str = "auto",
    executor: str = "local",
    cluster: Cluster | None = None,
    storage: str | None = None,
    run_folder: str | Path = "runs",
    data_root: str | None = None,
    allow: Sequence[str] | None = None,
    storage_timeout: float = 600.0,
    lease_seconds: float = 60.0,
    callbacks: Sequence[Callback] = (),
    progress: "bool | Display" = True,
) -> "Refitted":
    """Trains the confirmed trial on the training and the validation part together, then tests it once.

    Args:
        search: take what the search alone would pick.
        seeds: with how many it is trained, side by side; the one with the lowest training loss is taken. By default
            it is trained once.

    Other arguments as in `confirm`.

    Raises:
        UserError: no such study, nothing confirmed, other data than the search's, or what `run` raises.
        HpsearchError: the run could not continue; what was trained is kept.
    """
    from hpsearch.results.confirm.refit import refit as train

    name, given = named(study)
    options = _options(study, given, storage=storage, run_folder=run_folder, data_root=data_root, allow=allow)
    fleet = Workers(gpus, None if seeds else 1)
    options = replace(options, workers=fleet, executor=executor, cluster=cluster or Cluster())
    options = replace(options, storage_timeout=storage_timeout, lease_seconds=lease_seconds)
    with _followed(options, progress, callbacks) as (publisher, followers):
        found = train(name, options, search=search, seeds=seeds, test=test, given=given, callbacks=followers)
    if found.refit is not None:
        publisher.publish(found.study)
    return found


@checked
def continue_trial(
    study: Study | None = None,
    *,
    epochs: int,
    trial: int | None = None,
    search: bool = False,
    gpus: str = "auto",
    executor: str = "local",
    cluster: Cluster | None = None,
    storage: str | None = None,
    run_folder: str | Path = "runs",
    data_root: str | None = None,
    allow: Sequence[str] | None = None,
    storage_timeout: float = 600.0,
    lease_seconds: float = 60.0,
    callbacks: Sequence[Callback] = (),
    progress: "bool | Display" = True,
) -> "Continued":
    """Trains a finished trial to more epochs, from its checkpoint.

    Args:
        epochs: of the longer trial, those included that are trained already.
        trial: its number; by default the study's answer.
        search: where no trial is named, take what the search alone would pick.

    Other arguments as in `confirm`.

    Raises:
        UserError: no such study or trial, it cannot be continued, other data than the search's, or what `run` raises.
        HpsearchError: the run could not continue; what was trained is kept.
    """
    from hpsearch.results.confirm.continuation import continue_trial as train

    name, given = named(study)
    options = _options(study, given, storage=storage, run_folder=run_folder, data_root=data_root, allow=allow)
    fleet = Workers(gpus)
    options = replace(options, workers=fleet, executor=executor, cluster=cluster or Cluster())
    options = replace(options, storage_timeout=storage_timeout, lease_seconds=lease_seconds)
    with _followed(options, progress, callbacks) as (publisher, followers):
        found = train(
            name, options, epochs=epochs, trial=trial, search=search, given=given, callbacks=followers
        )
    if found.trial is not None:
        publisher.publish(found.study)
    return found


@checked
def import_trials(
    source: str,
    study: Study,
    *,
    origin: str | None = None,
    storage: str | None = None,
    run_folder: str | Path = "runs",
) -> "Imported":
    """Takes the trials of another study, Optuna's or ours, as past trials of a study, see `hpsearch import`.

    Args:
        source: name of that study.
        origin: URL of its database; by default `storage`.

    Raises:
        UserError: no such study, another direction, or no trial that fits.
    """
    from hpsearch.results.commands.imports import import_trials as take

    name, given = named(study)
    own = database_in(Path(run_folder))
    options = RunOptions(storage=storage or own, run_folder=Path(run_folder))
    if options.storage == own:
        make_folder(options.run_folder)
    return take(source, as_url(origin or options.storage), given or _stored(name, options), options.storage)


@checked
def join(
    study: Study | None = None,
    *,
    ensemble: int | None = None,
    average: int | None = None,
    test: bool = True,
    gpus: str = "auto",
    storage: str | None = None,
    run_folder: str | Path = "runs",
    data_root: str | None = None,
    allow: Sequence[str] | None = None,
) -> "Joined":
    """Joins several of a study's kept models, as `hpsearch best --ensemble` and `--average` do.

    Raises:
        UserError: no such study, too few models, or other data than the search's; neither or both are asked for.
    """
    if (ensemble is None) == (average is None):
        raise UserError("join: give one of ensemble and average: how many models are joined at most")
    from hpsearch.results.confirm.ensemble import join as join_models

    name, given = named(study)
    options = _options(study, given, storage=storage, run_folder=run_folder, data_root=data_root, allow=allow)
    options = replace(options, workers=Workers(gpus))
    kind, most = ("average", average) if ensemble is None else ("ensemble", ensemble)
    assert most is not None
    return join_models(name, options, kind, most, given=given, test=test)


@checked
def predict(
    model: "SavedModel | SavedEnsemble | str | Path",
    pictures: str | Path | Sequence[str | Path],
    *,
    top: int = 5,
    threshold: float | None = None,
    prepare: str | None = None,
    storage: str | None = None,
    run_folder: str | Path = "runs",
    allow: Sequence[str] = (),
    search: bool = False,
) -> "list[Prediction]":
    """Classifies picture files with a study's best model.

    Args:
        model: `load_best_model`'s, or what names one to it.
        pictures: a file, or a folder of them, or several.
        top: classes that are given for each picture.
        threshold: probability from which a picture has a label, where it may have several; None: a half.
        prepare: what prepares a picture of your own data, as in "my_data:prepare"; else what the study names.

    Other arguments as in `load_best_model`.

    Raises:
        UserError: no such model, or nothing says how the study's data function prepares a picture.
    """
    from hpsearch.results.commands.models import load_best_model
    from hpsearch.results.commands.predict import pictures_in, predict_files

    if isinstance(model, str | Path):
        model = load_best_model(model, storage, allow, search, run_folder)
    return predict_files(model, pictures_in(pictures), top, prepare, threshold)


@checked
def report(
    study: Study | None = None,
    output: str | Path | None = None,
    *,
    markdown: bool = False,
    png: str | Path | None = None,
    storage: str | None = None,
    run_folder: str | Path = "runs",
    search: bool = False,
    price_per_hour: float | None = None,
) -> list[Path]:
    """Writes a study's report and returns the files, the report itself first.

    Args:
        output: the file; by default report.html in the study's run folder, or here if that may only be read.
        markdown: Markdown instead of HTML.
        png: folder for the graphs as PNG files.
        search: call the search's own first the best, whatever a confirmation says.
        price_per_hour: of a device.

    Raises:
        UserError: no such study, or a file that cannot be written.
    """
    from hpsearch.results.report import build_report, write_report
    from hpsearch.results.stored.listing import makes_folder
    from hpsearch.results.stored.reading import reading_study

    url, folder = storage or database_in(Path(run_folder)), Path(run_folder)
    with reading_study(named(study)[0], url) as opened:
        name = opened.name
    if output is None and not makes_folder(name):
        raise UserError(
            f'study "{name}" has no folder of its own, as its name would lead elsewhere; give --output FILE'
        )
    home, file = folder / name, f"report{'.md' if markdown else '.html'}"
    if output is not None:
        place = Path(output)
    else:  # beside the study, or here if that may only be read
        place = home / file if not home.is_dir() or os.access(home, os.W_OK) else Path(file)
    return write_report(
        build_report(name, url, search, price_per_hour), place, markdown, None if png is None else Path(png)
    )


def _stored(name: str | None, options: RunOptions) -> StudySpec:
    """Returns a study as the database has it."""
    from hpsearch.results.stored.reading import reading_study
    from hpsearch.store.keys import SPECIFICATION, stored_specification
    from hpsearch.study.file import lost_order, refuse_foreign_places

    with reading_study(name, options.storage) as opened:
        if not opened.stored.is_ours:
            raise UserError(f'study "{name}" was not made by hpsearch and cannot be run; give a study file')
        spec = stored_specification(opened.attrs, opened.name)
        if warning := lost_order(opened.attrs[SPECIFICATION], opened.name):
            logger.warning("%s", warning)
    refuse_foreign_places(spec, options.data_root)
    return spec


def _options(
    study: Study | None,
    given: StudySpec | None,
    *,
    storage: str | None,
    run_folder: str | Path,
    data_root: str | None,
    allow: Sequence[str] | None,
) -> RunOptions:
    """Returns where a study lies, and what it may name: its own file what it names, its modules lie beside it.

    Args:
        given: what its file says.
    """
    folder = Path(run_folder)
    return RunOptions(
        storage=storage or database_in(folder),
        run_folder=folder,
        data_root=data_root,
        allow=None if allow is None else (*(given.objects() if given is not None else ()), *allow),
        import_paths=_folders(study),
    )


@contextmanager
def _followed(
    options: RunOptions, progress: "bool | Display", callbacks: Sequence[Callback]
) -> "Iterator[tuple[Publisher, list[Callback]]]":
    """Shows the progress of what a search calls for; gives the dashboard's publisher, and all that follow the run."""
    from hpsearch.results.dashboard.publisher import Publisher

    publisher = Publisher(options.storage, options.run_folder)
    with _shown(progress) as display:
        yield publisher, [display, publisher, *callbacks]


def _folders(study: Study | None) -> tuple[str, ...]:
    """Returns where a study's own modules lie; one without a file is part of the program that runs it."""
    if isinstance(study, Path) or (isinstance(study, str) and is_study_file(study)):
        return (str(Path(study).absolute().parent),)
    here = os.getcwd()
    is_program = study is not None and not isinstance(study, str)
    return (here,) if is_program and (here in sys.path or "" in sys.path) else ()


@contextmanager
def _metrics(address: str | int | None) -> Iterator[tuple[Callback, ...]]:
    """Serves the figures of a run meanwhile, if an address is given."""
    if address is None:
        yield ()
        return
    try:
        from hpsearch.results.dashboard.metrics import Metrics
    except ImportError:
        raise UserError('--metrics needs prometheus-client; run pip install "hpsearch[metrics]"') from None
    metrics = Metrics(str(address))
    try:
        yield (metrics,)
    finally:
        metrics.close()


def _shown(progress: "bool | Display", storage: str = "") -> "Display":
    """Returns what shows the progress; a display that a command has chosen is taken as it is."""
    if not isinstance(progress, bool):
        return progress
    from hpsearch.results.terminal.display import choose_display

    return choose_display(quiet=not progress, as_json=False, storage=storage)
