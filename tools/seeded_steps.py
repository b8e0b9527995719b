"""Ten seeded steps of every method, as digests: a change of structure must leave each of them bit-identical.

    python tools/seeded_steps.py write FILE            digests of the tree this file stands in
    python tools/seeded_steps.py compare BEFORE AFTER  a line a method, exit code 1 if one differs

Digests hold on one machine only (processors round differently): write both files on the same one, the first from a
checkout of the revision before (``git worktree add``). Runs are started by the command alone, so that the script works
on any revision: float32, one thread, the embedded data set. A digest covers every logged loss, every tensor of the
checkpoint's weights and memories, and the optimizer's state; names of parameters do not count.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
SMALL = (
    *("data.source.num_train=160", "data.source.num_test=32", "data.batch_size=16", "trainer=cpu"),
    *("trainer.max_epochs=1", "trainer.log_every_n_steps=1", "trainer.num_threads=1", "trainer.precision=32-true"),
    *("report=none", "evaluation=none", "seed=7"),
)
OF_METHOD = {
    "augmented_tuning": ("labels.share=0.8",),
    "deepcluster_v2": ("objective.num_clusters=6",),
    "pcl": ("objective.num_clusters=[4,6]",),
    "adainf": ("generated.source.num_train=40",),
    "g_simclr": ("pseudo_labels.num_clusters=16", "pseudo_labels.widths=[4,8]", "pseudo_labels.epochs=1"),
    "groco": ("objective.num_negatives=5",),
    "mcl": ("pseudo_labels.num_clusters=2",),
    "swav": ("objective.num_prototypes=30", "objective.queue.size=32"),
    **{f"metrix_{loss}": ("sampler.per_class=2",) for loss in ("contrastive", "multi_similarity", "proxy_anchor")},
}
PAIRS = ("align", "barlip", "cl2l", "cleanclip", "clip", "contrastive_gap", "m2_encoder", "m2_mix", "m3col", "siamlip")
MODALITIES = {**dict.fromkeys((*PAIRS, "siglip", "swalip"), "captioned_shapes"), "gram": "scenes", "more": "scenes"}
MODALITIES["count"] = "counted_shapes"
"""Methods that are not of pictures alone, and the data set that they need where their file names none."""

LATER = (",train/lr", ",train/grad_norm,")
"""What the first revisions did not log; weights and the optimizer's state say the same."""


def digest_of(method: str) -> dict[str, Any]:
    """Runs ten steps and reads what they left: first and last loss for a reader, the digest for the comparison."""
    with tempfile.TemporaryDirectory() as folder:
        brings = "override /data:" in (HERE / "configs" / "method" / f"{method}.yaml").read_text()
        data = [] if brings else [f"data={MODALITIES.get(method, 'shapes')}"]
        arguments = [f"method={method}", *data, *SMALL, *OF_METHOD.get(method, ())]
        command = [sys.executable, str(HERE / "train.py"), *arguments, f"hydra.run.dir={folder}/run"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(HERE)}
        ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if ended.returncode:
            return {"failed": ended.stderr.strip().splitlines()[-1]}
        return read(Path(folder) / "run")


def read(folder: Path) -> dict[str, Any]:
    """The digest of a run folder and of the stages inside it."""
    import torch

    found = hashlib.sha256()
    losses: list[str] = []
    for where in sorted({path.parent.parent for path in folder.rglob("last.ckpt")}):
        lines = (where / "metrics.csv").read_text().split()[1:]
        rows = [line for line in lines if ",train/" in line and not any(name in line for name in LATER)]
        found.update("\n".join(sorted(rows)).encode())
        losses += [line.rsplit(",", 1)[1] for line in rows if ",train/loss," in line]
        state = torch.load(where / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
        for part in ("state_dict", "optimizer_states"):
            found.update("".join(sorted(tensors(state[part]))).encode())
    return {"steps": len(losses), "first": losses[0], "last": losses[-1], "digest": found.hexdigest()[:32]}


def tensors(node: Any) -> list[str]:
    """A digest of every tensor below a node of a checkpoint."""
    import torch

    if isinstance(node, torch.Tensor):
        content = node.detach().contiguous().reshape(-1).view(torch.uint8) if node.numel() else node
        return [hashlib.sha256(f"{node.dtype}{tuple(node.shape)}".encode() + content.numpy().tobytes()).hexdigest()]
    if isinstance(node, dict):
        return [one for value in node.values() for one in tensors(value)]
    if isinstance(node, (list, tuple)):
        return [one for value in node for one in tensors(value)]
    return []


def write(path: Path, methods: list[str]) -> None:
    """Digests of every method into a file."""
    names = methods or sorted(file.stem for file in (HERE / "configs" / "method").glob("*.yaml"))
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(names, pool.map(digest_of, names), strict=True))
    path.write_text(json.dumps(found, indent=1) + "\n")
    failed = {name: one["failed"] for name, one in found.items() if "failed" in one}
    lacking = [name for name, why in failed.items() if "no weights are named" in why]
    said = [f"{name}: {why}" for name, why in failed.items() if name not in lacking]
    print(f"{len(found)} methods, {len(said)} failed", *said, sep="\n")
    if lacking:
        print(f"left out, for they need the weights of a teacher: {', '.join(lacking)}")


def compare(before: Path, after: Path) -> bool:
    """Prints a line for every method of both files; whether all of the first file's are as they were."""
    old, new = json.loads(before.read_text()), json.loads(after.read_text())
    same = True
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            verdict = "new"
        elif name not in new:
            verdict, same = "gone", False
        else:
            equal = old[name] == new[name] and "digest" in old[name]
            verdict, same = "identical" if equal else f"differs: {old[name]} {new[name]}", same and equal
        print(f"{name:<28}{verdict}")
    return same


def main() -> None:
    """The two commands of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("write")
    one.add_argument("file", type=Path)
    one.add_argument("methods", nargs="*")
    both = commands.add_parser("compare")
    both.add_argument("before", type=Path)
    both.add_argument("after", type=Path)
    chosen = parser.parse_args()
    if chosen.command == "write":
        write(chosen.file, chosen.methods)
    elif not compare(chosen.before, chosen.after):
        sys.exit(1)


if __name__ == "__main__":
    main()
