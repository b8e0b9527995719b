"""From a sweep to a table: two temperatures, two seeds, mean and spread.

On the command line this is ``python train.py -m objective.temperature=0.1,0.5 seed=0,1``. So short that
all score at chance: leave out num_train and num_test and set trainer.max_epochs=15 to compare them.
"""

from pathlib import Path

import ssl_framework
from ssl_framework.commands.report import main as report

SMALL = (
    *("method=simclr", "data=shapes", "data.source.num_train=200", "data.source.num_test=100", "data.batch_size=50"),
    *("trainer=cpu", "trainer.max_epochs=1", "report=none", "evaluation.baselines=false"),
    *("evaluation.probes.knn.k=5", "evaluation.probes.linear=null"),
)
folder = Path("outputs/gallery/sweep")
for temperature in (0.1, 0.5):
    for seed in (0, 1):
        told = (f"objective.temperature={temperature}", f"seed={seed}")
        ssl_framework.compose(*SMALL, *told).fit(folder / ",".join(told))
report([str(folder), "--out", "outputs/gallery/table"])
table = Path("outputs/gallery/table/table.md").read_text()
