"""Commands that ask for what cannot be: each ends in one sentence that names it, and leaves nothing."""

from collections.abc import Iterator
from pathlib import Path

from tools.chaos.runs import COMMON, RUN
from tools.chaos.starts import start
from tools.chaos.trial import Trial, emptied

BAD = {
    "objective.temperature=null": "objective.temperature",
    "objective.temperature=nan": "objective.temperature",
    "objective.temperature=true": "objective.temperature",
    "objective.temperature=hot": "objective.temperature",
    "optimizer.weight_decay=-1": "weight_decay",
    "optimizer.lr_per_256=inf": "lr_per_256",
    "trainer.max_epochs=1.5": "trainer.max_epochs",
    "trainer.accumulate_grad_batches=0": "trainer.accumulate_grad_batches",
    "trainer.log_every_n_steps=0": "trainer.log_every_n_steps",
    "trainer.precision=64-true": "trainer.precision",
    "trainer.accelerator=mps": "trainer.accelerator",
    "trainer.num_nodes=2": "num_nodes",
    "data.batch_size=0": "data.batch_size",
    "seed=1.5": "seed",
    "method=null": "method",
    "student=null": "student",
    "+foo=1": "foo",
    "hydra.run.dir=a_file/run": "a_file",
    "hydra.run.dir=/proc/run": "/proc/run",
    f"hydra.run.dir={'x' * 300}": "xxx",
}
"""Override -> what the sentence names."""


def refusals(place: Path) -> Iterator[Trial]:
    """Each of them."""
    for bad, named in BAD.items():
        folder = emptied(place / "run")
        (folder / "a_file").write_text("a file where a folder should be")
        arguments = [item for item in COMMON if item.partition("=")[0] != bad.partition("=")[0]]
        done = start(folder, ("method=simclr", "trainer.max_epochs=1", *arguments, bad), timeout=60)
        sentences = [line for line in done.err.splitlines() if line.startswith("error: ")]
        badly = [f"ended with {done.code}"] * (done.code != 1)
        badly += ["traceback"] * ("Traceback (most recent call last)" in done.err)
        badly += [f"{len(sentences)} sentences"] * (len(sentences) != 1)
        badly += [f"does not name {named}"] * (named not in " ".join(sentences))
        badly += ["a folder is left"] * (folder / RUN).exists()
        said = f"{', '.join(badly)}: {done.last_line}" if badly else ""
        what = bad if len(bad) < 50 else f"{bad[:40]}..."
        yield Trial("simclr", "", "", "input", what, 1, 1, "", 0, 0, 0, 0, 0, 0, done.orphans, said, done.last_line)
