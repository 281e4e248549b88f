"""`python -m tests.torture [name…]`: runs the parts and prints one line for each."""

import argparse
import os
import secrets
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.torture.agents import PARTS as AGENT_PARTS
from tests.torture.escapes import escapes
from tests.torture.fan_out import fan_out_part
from tests.torture.fio import fio
from tests.torture.fsx import fsx
from tests.torture.kills import kills
from tests.torture.machine import state_machine
from tests.torture.part import Part, PartFailedError, Plan
from tests.torture.pjdfstest import pjdfstest
from tests.torture.powercut import garble, powercut
from tests.torture.programs import programs
from tests.torture.stress_ng import stress_ng

PARTS: dict[str, Part] = {
    "pjdfstest": pjdfstest,
    "fsx": fsx,
    "fio": fio,
    "stress-ng": stress_ng,
    "programs": programs,
    "state-machine": state_machine,
    "kills": kills,
    "powercut": powercut,
    "garble": garble,
    "escapes": escapes,
    **AGENT_PARTS,
    "fan-out": fan_out_part,
}


def main(words: list[str]) -> int:
    """Runs what the command line names, or everything; the exit status."""
    asked = _arguments().parse_args(words)
    print(f"seed {asked.seed}: the same run again with --seed {asked.seed}", flush=True)
    failed = [name for name in asked.names or PARTS if not _ran(name, asked)]
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[[], *PARTS], metavar="name", help=", ".join(PARTS)
    )
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    for name, what in (("PJDFSTEST", "directory of a built pjdfstest"), ("FSX", "the program fsx")):
        parser.add_argument(
            f"--{name.lower()}", type=Path, default=os.environ.get(name) or None, metavar="PATH",
            help=f"{what}; or {name}= in the environment",
        )  # fmt: skip
    return parser


def _ran(name: str, asked: argparse.Namespace) -> bool:
    began = time.monotonic()
    made = Path(tempfile.mkdtemp(prefix=f"nexusfs-{name}-"))
    plan = Plan(made, asked.seed, asked.pjdfstest, asked.fsx)
    try:
        word, said = "ok", PARTS[name](plan)
    except PartFailedError as exc:
        word, said = "FAILED", str(exc)
    except Exception:  # a part that breaks is no reason not to run the others
        word, said = "FAILED", traceback.format_exc()
    if word == "ok":
        shutil.rmtree(made)
    else:
        said += f"\nsee {made}"
    print(f"{name}: {word} ({time.monotonic() - began:.0f} s): {said}", flush=True)
    return word == "ok"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
