"""A worker that behaves oddly: it leaves a process behind that holds its pipe, and takes its time to exit."""

import os
import sys
import time
from multiprocessing.connection import Connection

from hpsearch.contracts.messages import Ready


def main() -> None:
    pipe = Connection(int(sys.argv[1]))
    setup = pipe.recv()
    child = os.fork()
    if child == 0:
        os.setsid()  # so that no signal to the worker's group reaches it
        time.sleep(30)
        os._exit(0)
    pipe.send(Ready(setup.worker, os.getpid(), str(child), {}, None, 0.0))
    pipe.recv()
    os.kill(child, 9)
    os.waitpid(child, 0)
    pipe.close()
    time.sleep(float(os.environ.get("LINGERS", "0.5")))  # as torch does when it is taken down
    sys.exit(143)


if __name__ == "__main__":
    main()
