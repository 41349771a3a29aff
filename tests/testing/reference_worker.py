"""A worker whose trials are formulas; trial 1 kills it in its second epoch, as `function.kills` says.

python -m tests.testing.reference_worker FD
"""

import os
import signal
import sys

from hpsearch.contracts.trial import TrialRun
from hpsearch.service.worker import main
from hpsearch.testing import ReferenceEngine
from hpsearch.training.build import ENGINES


def before(run: TrialRun, epoch: int) -> None:
    if run.number == 1 and epoch == 2 and (run.attempt == 1 or run.spec.function["kills"] == "always"):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    ENGINES["function"] = lambda *_: (ReferenceEngine(before=before), None)
    sys.exit(main())
