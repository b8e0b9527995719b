"""The runs of the campaign: six methods with every kind of state (queue, teacher, prototypes, a number a sample, batch
statistics), bounded in three ways and saving in three ways, on the handwritten digits."""

from typing import NamedTuple

METHODS = {
    "mocov2": ("objective.queue.size=96",),
    "mochi": (
        *("objective.queue.size=96", "feature_mixer.num_hard=8", "feature_mixer.num_pair=6"),
        "feature_mixer.num_query=4",
    ),
    "byol": (),
    "swav": ("objective.queue.size=96", "objective.num_prototypes=30", "objective.frozen=0.1"),
    "isogclr": (),
    "barlow_twins": ("student.heads.projector.hidden=[32]", "student.heads.projector.out=16"),
}
RUN = "run"
"""The folder of every run, in its working folder."""

COMMON = (
    *("data=digits", "data.source.test_fraction=0.92", "data.batch_size=32"),
    *("trainer=cpu", "trainer.precision=32-true", "trainer.num_threads=1", "trainer.log_every_n_steps=1"),
    *("evaluation.every_n_epochs=2", "evaluation.probes.knn.k=5", "evaluation.probes.linear.max_iter=2"),
    f"hydra.run.dir={RUN}",
)
EACH = 4
"""Steps an epoch: 143 pictures in batches of 32."""

BOUNDS = {
    "epochs": ("trainer.max_epochs=4",),
    "steps": ("trainer.max_epochs=100", "trainer.max_steps=14"),
    "both": ("trainer.max_epochs=4", "trainer.max_steps=15"),
}
STEPS = 3
MINUTES = 0.004
SAVED = {
    "epochs": (),
    "steps": (f"trainer.checkpoint_every_n_steps={STEPS}", "trainer.checkpoint_every_n_epochs=1000"),
    "minutes": (f"trainer.checkpoint_every_minutes={MINUTES}", "trainer.checkpoint_every_n_epochs=1000"),
}


class Kind(NamedTuple):
    """One kind of run."""

    method: str
    bound: str  # of BOUNDS
    saved: str  # of SAVED
    more: tuple[str, ...] = ()  # arguments

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of the command."""
        chosen = (*METHODS[self.method], *COMMON, *BOUNDS[self.bound], *SAVED[self.saved])
        return (f"method={self.method}", *words(*chosen, *self.more))

    def may_lose(self, log: list[tuple[float, str, str]], struck: float) -> int:
        """Steps that may be lost by a run that has this log (see ``moments.read_log``) and was struck at a time.

        Those between two checkpoints, the step in which the last one became due, and what was done while it was written
        in the background.
        """
        done = [at for at, word, _ in log if word == "update"]
        opened = [at for at, word, rest in log if word == "file" and rest.startswith("open .last.ckpt.")]
        named = [at for at, word, rest in log if word == "file" and rest.startswith("os.rename .last.ckpt.")]
        writing = [at for at in opened[-1:] if not named or named[-1] < at or struck - named[-1] < 0.001]
        beside = 1 + sum(at > writing[0] for at in done) if writing else 1
        between = {"epochs": EACH, "steps": STEPS, "minutes": sum(at > struck - 60 * MINUTES for at in done)}
        return between[self.saved] + beside


def words(*arguments: str) -> list[str]:
    """Arguments of which the last of each group or key stands."""
    return list({argument.partition("=")[0]: argument for argument in arguments}.values())
