"""What an exception means for a trial, and for the process that it happened in."""

import traceback

from hpsearch.contracts.trial import EndKind, TrialEnd, TrialRun
from hpsearch.errors import CheckpointError, HpsearchError, ModelError, UserError
from hpsearch.training.device import is_out_of_memory


def trial_end(run: TrialRun, error: BaseException, weights: str | None = None) -> TrialEnd:
    """Returns how an attempt ends that an exception has ended.

    Args:
        weights: path of the best epoch's weights, which outlive the error.
    """
    kind = EndKind.OUT_OF_MEMORY if is_out_of_memory(error) else EndKind.ERROR
    if isinstance(error, CheckpointError):
        kind = EndKind.UNSAVED
    if _is_pruned(error):
        kind = EndKind.PRUNED
    return TrialEnd(
        run.number,
        run.attempt,
        kind,
        detail=sentence(error),
        traceback="".join(traceback.format_exception(error)) if kind is EndKind.ERROR else "",
        weights=weights,
    )


def _is_pruned(error: BaseException) -> bool:
    """Says whether it is Optuna's word for a trial that is given up; known by its name, as Optuna is not imported."""
    return any(
        kind.__name__ == "TrialPruned" and kind.__module__.startswith("optuna.")
        for kind in type(error).__mro__
    )


def comes_again(error: BaseException, first: bool) -> bool:
    """Says whether another attempt would surely end alike: what a loop yields, or a slip in its code.

    Args:
        first: whether it came before the end of the trial's first epoch.
    """
    return isinstance(error, ModelError if not first else (UserError, *_SLIPS)) and not is_out_of_memory(
        error
    )


_SLIPS = (TypeError, NameError, AttributeError, KeyError, ImportError, SyntaxError, NotImplementedError)


def sentence(error: BaseException) -> str:
    """Returns an exception in one line; ours speak for themselves, others need their class's name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, HpsearchError):
        return " ".join(lines)
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def spoils_process(error: BaseException) -> bool:
    """Returns whether no trial can be trained any more in this process.

    After an error of a CUDA kernel (an assertion, an illegal address) every further call on the device fails
    until the process ends. Lack of memory is not of that kind.
    """
    if is_out_of_memory(error):
        return False
    chain: BaseException | None = error
    while chain is not None:
        if type(chain).__name__ == "AcceleratorError" or "CUDA error" in str(chain):
            return True
        chain = chain.__cause__ or chain.__context__
    return False
