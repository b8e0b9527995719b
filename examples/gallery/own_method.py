"""A method of your own, without touching this repository: a module, a YAML, and two words in the command.

Writes both into a folder first. In practice they are a package of yours: see examples/plugin.
"""

import sys
from pathlib import Path

import ssl_framework

folder = Path("outputs/gallery/mine").resolve()
(folder / "configs" / "method").mkdir(parents=True, exist_ok=True)
(folder / "mymethod.py").write_text('''"""The two views of an image shall have equal features, spread over the batch."""

import torch

from ssl_framework.objectives.base import Objective, outputs_of


class Spread(Objective):
    """Mean squared distance of the views, less ``weight`` times the spread of the batch."""

    def __init__(self, weight: float, head: str = "projector") -> None:
        super().__init__()
        self.weight, self.head, self.reads = weight, head, (head,)

    def forward(self, student, teacher, batch, clock):
        z0, z1 = outputs_of(student, self.head)  # [B, D] each
        spread = torch.cat([z0, z1]).std(dim=0).clamp(max=1).mean()
        return {"loss": (z0 - z1).square().mean() - self.weight * spread, "spread": spread}
''')
(folder / "configs" / "method" / "spread.yaml").write_text("""# @package _global_
# Command: python train.py --config-dir configs "trust=[mymethod]" method=spread
defaults:
  - override /head: simclr
  - override /teacher: none
  - override /objective: null
  - override /views: simclr
  - override /optimizer: sgd
objective: {_target_: mymethod.Spread, weight: 1.0}
""")

sys.path.insert(0, str(folder))
ssl_framework.use(config_dir=folder / "configs", trust=["mymethod"])
run = ssl_framework.compose(
    *("method=spread", "data=shapes", "data.source.num_train=200", "data.source.num_test=100", "data.batch_size=50"),
    *("trainer=cpu", "trainer.max_epochs=2", "report=none", "evaluation=none"),
).fit("outputs/gallery/own_method")
print(run.result["steps"], "steps of", run.result["method"])
