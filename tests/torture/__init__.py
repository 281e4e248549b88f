"""The long tests of ordinary files: `make torture`, or `python -m tests.torture [name…]`.

Each part prints one line with its result, and the whole fails when a part does. `make test` takes
a short, seeded slice of the parts that are ours (tests/fuse, tests/prop). What is random follows
from one seed, which is printed; `--seed` repeats a run.

Other people's programs: `pjdfstest`, `fsx`, `fio`, `stress_ng`, `programs`. Ours: `machine` (random
calls, compared with the host's disk), `kills` (kill -9 of the daemon under load) and `powercut` (a
store on `lossy`, a disk that loses or garbles what was not synced).
"""
