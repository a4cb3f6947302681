"""`viscera batch` with a stand-in for the networks, which does what each scan's text says; run as a process of its own.

python batch_stand_in.py ARGUMENTS-OF-BATCH. Leases, ledger, workers and exit code are the real ones.
"""

import os
import signal
import sys
import time
from contextlib import AbstractContextManager, nullcontext

import viscera.cli.batch as verb
from viscera.batch.tasks import Task, TaskOutputs
from viscera.batch.workers import InProcessPool, Pool
from viscera.cli.main import main
from viscera.core.files import write_bytes


def obey(task: Task, identity: str) -> TaskOutputs:
    """Leaves a sign of each attempt in `signs` beside OUT, then does what the scan says, and writes its text."""
    text = task.source.read_text(encoding="utf-8")
    signs = task.folder.parent / "signs"
    signs.mkdir(exist_ok=True)
    (signs / f"{task.name}.{os.getpid()}").touch()
    if text == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "grow":
        kept = [bytearray(b"1") * 2**20 for _ in range(1000)]
        time.sleep(600)
        del kept
    while text == "wait" and not (signs / "go").exists():
        time.sleep(0.02)
    write_bytes(text.encode(), task.output)
    return TaskOutputs(outputs={"nifti": task.output})


def pool_of(args: "verb.argparse.Namespace") -> AbstractContextManager[Pool]:
    if args.workers is None and args.scheduler is None:
        return nullcontext(InProcessPool(obey))
    from viscera.batch.dask_workers import DaskPool

    return DaskPool(args.scheduler, workers=args.workers or 1, memory_limit=args.memory_limit, segment=obey)


if __name__ == "__main__":
    # A parent that ignores SIGINT hands that down; a terminal does not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    verb._pool = pool_of
    sys.exit(main(["batch", *sys.argv[1:]]))
