"""The process of one engine: takes its share from a pipe, and sends back what is whole.

It ends with the process that started it: then nobody reads what it sends. Whatever it prints,
libraries included, that process reads where this one dies.
"""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection

from geomrl.errors import GeomrlError
from geomrl.rollout.engines import engine_class


def main(number: int) -> None:
    """Sample the share that comes over the pipe of a file descriptor."""
    os.set_inheritable(number, False)  # not for the processes that an engine starts
    pipe: Connection = Connection(number)
    share = pipe.recv()
    places = list(share.batches)
    try:
        engine = engine_class(share.engine).for_sampling(share.job, share.device)
        for index, completions in engine.stream(
            [share.batches[place] for place in places], share.sampling, pipe.send
        ):
            pipe.send((places[index], completions))
        engine.close()
        pipe.send(None)
    except GeomrlError as error:
        pipe.send(str(error))
        raise SystemExit(1) from error


if __name__ == "__main__":
    main(int(sys.argv[1]))
