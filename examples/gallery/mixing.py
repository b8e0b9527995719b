"""Mixing pictures: the same method with and without CutMix, and what the network sees.

So short that both score at chance: leave out num_train and num_test and set trainer.max_epochs=15 to compare them.
"""

from pathlib import Path

import torch
from torchvision.utils import save_image

import ssl_framework

SMALL = (
    *("data=shapes", "data.source.num_train=200", "data.source.num_test=100", "data.batch_size=50", "trainer=cpu"),
    *("trainer.max_epochs=1", "report=none", "evaluation.baselines=false", "evaluation.probes.knn.k=5"),
    "evaluation.probes.linear=null",
)
scores = {}
for mixer in ("none", "cutmix"):
    run = ssl_framework.compose("method=simclr", f"mixer={mixer}", *SMALL).fit(f"outputs/gallery/mixer_{mixer}")
    scores[mixer] = run.metrics
    print(mixer, run.metrics)

composition = ssl_framework.compose("method=simclr", "mixer=cutmix", *SMALL)
images = composition.data().pretrain.rows[:8]  # [8, 3, 32, 32] uint8
views = torch.cat(composition.views().of(images))  # [16, 3, 32, 32]
views = (views - views.amin()) / (views.amax() - views.amin())
Path("outputs/gallery").mkdir(parents=True, exist_ok=True)
save_image(views, "outputs/gallery/views.png", nrow=8)
print("outputs/gallery/views.png")
