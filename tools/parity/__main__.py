"""The command; see this package's docstring."""

import argparse
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ssl_framework.runs.folder import RunFolder, write_json
from tools.parity.cases import CASES, EPOCHS, SEEDS, VARIANTS, overrides
from tools.parity.record import Key, key_of, read, row_of, table, write

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "results" / "parity"
SPEED_ROUNDS, SPEED_IMAGES = 3, 2560


def wanted(only: Sequence[str]) -> list[Key]:
    """All runs: ours and lightly's of every method at one seed before the next seed, then the variants."""
    both = [(method, side, seed) for seed in SEEDS for method in CASES for side in ("ours", "lightly")]
    changed = [(method, side, seed) for seed in SEEDS for method, side in VARIANTS]
    return [key for key in (*both, *changed) if not only or key[0] in only]


def folder_of(out: Path, key: Key) -> Path:
    """Where a run is."""
    method, side, seed = key
    return out / f"{method}-{''.join(c if c.isalnum() else '-' for c in side)}-{seed}"


def command_of(key: Key, folder: Path, epochs: int, root: str) -> list[str]:
    """What makes the run, or goes on with it."""
    method, side, seed = key
    if side == "lightly":
        said = (method, str(seed), str(folder), f"--epochs={epochs}", f"--root={root}")
        return [sys.executable, "-m", "tools.parity.theirs", *said]
    if RunFolder(folder).has_checkpoint:
        return [sys.executable, "train.py", f"resume={folder}"]
    said = (*overrides(method, side), f"seed={seed}", f"trainer.max_epochs={epochs}", f"data.root={root}")
    return [sys.executable, "train.py", *said, f"hydra.run.dir={folder}"]


def run(command: Sequence[str], until: float) -> bool:
    """Whether it ended well before ``until``, at which it is told to save and stop."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        return process.wait(max(1.0, until - time.time())) == 0
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait()
        return False


def losses_of(folder: Path, side: str) -> list[float]:
    """Of every step."""
    if side == "lightly":
        return RunFolder(folder).read_result()["losses"]
    return [value for _, value in RunFolder(folder).read_metrics()["train/loss"]]


def add(key: Key, folder: Path) -> None:
    """Adds a finished run to the record and removes its folder."""
    metrics = RunFolder(folder).read_result()["metrics"]
    RECORD.mkdir(parents=True, exist_ok=True)
    path = RECORD / "results.csv"
    rows = [row for row in read(path) if key_of(row) != key]
    write(path, [*rows, row_of(key, metrics, losses_of(folder, key[1]))])
    (RECORD / "table.md").write_text(table(read(path)))
    shutil.rmtree(folder)


def speed(out: Path, root: str) -> None:
    """Images a second of SimCLR on both sides, in turn, without evaluation: results/parity/speed.json."""
    found: dict[str, list[float]] = {"ours": [], "lightly": []}
    for number in range(SPEED_ROUNDS):
        for side in found:
            folder = folder_of(out, ("simclr", f"speed-{side}", number))
            shutil.rmtree(folder, ignore_errors=True)
            command = command_of(("simclr", side, 0), folder, 2, root)
            few = ("evaluation=none", f"data.source.num_train={SPEED_IMAGES}") if side == "ours" else ()
            run([*command, *(few or (f"--images={SPEED_IMAGES}",))], time.time() + 600)
            found[side].append(RunFolder(folder).read_result()["images_per_second"])
            print(side, round(found[side][-1]), flush=True)
            shutil.rmtree(folder)
    RECORD.mkdir(parents=True, exist_ok=True)
    write_json(RECORD / "speed.json", {side: [round(value) for value in values] for side, values in found.items()})


def main() -> None:
    """Runs what is missing until the time is over."""
    parser = argparse.ArgumentParser(description=sys.modules["tools.parity"].__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", type=Path, help="where the runs go")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--only", nargs="*", default=(), help="methods")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="another number is tried, not recorded")
    parser.add_argument("--root", default="data", help="folder of the data set")
    parser.add_argument("--processes", type=int, default=1, help="side by side, of one thread each")
    parser.add_argument("--speed", action="store_true")
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if given.speed:
        return speed(out, given.root)
    until = time.time() + 60 * given.minutes
    there = {key_of(row) for row in read(RECORD / "results.csv")}
    one = threading.Lock()  # at a time adds to the record

    def made(key: Key) -> None:
        if time.time() >= until:
            return
        folder = folder_of(out, key)
        ended = run(command_of(key, folder, given.epochs, given.root), until)
        with one:
            if ended and given.epochs == EPOCHS:
                add(key, folder)
            print("done" if ended else "not done", *key, flush=True)

    with ThreadPoolExecutor(given.processes) as several:
        list(several.map(made, [key for key in wanted(given.only) if key not in there]))
    missing = [key for key in wanted(given.only) if key not in {key_of(row) for row in read(RECORD / "results.csv")}]
    print(f"{len(missing)} of {len(wanted(given.only))} runs are missing")


if __name__ == "__main__":
    main()
