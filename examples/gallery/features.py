"""Features of a run elsewhere: export to safetensors, read it with timm alone, and fit a classifier of scikit-learn."""

from pathlib import Path

import timm
import torch
from sklearn.linear_model import LogisticRegression

import ssl_framework
from ssl_framework.exporting import export

composition = ssl_framework.compose(
    *("method=simclr", "data=shapes", "data.source.num_train=200", "data.source.num_test=100", "data.batch_size=50"),
    *("trainer=cpu", "trainer.max_epochs=1", "report=none", "evaluation=none"),
)
run = composition.fit("outputs/gallery/features")
export(run.folder, Path("outputs/gallery/encoder.safetensors"))

data = composition.data()
net = timm.create_model("ssl_tiny", num_classes=0, checkpoint_path="outputs/gallery/encoder.safetensors").eval()
mean, std = (torch.tensor(composition.config.data[name]).view(3, 1, 1) for name in ("mean", "std"))  # [3, 1, 1]
with torch.no_grad():
    train, test = (net((split.rows / 255 - mean) / std) for split in (data.train, data.test))  # [N, D] each
largest = (test - run.embed(data.test.rows)).abs().max().item()
print(f"timm's features differ from the run's by at most {largest:.1e}")
classifier = LogisticRegression(max_iter=200).fit(train.numpy(), data.train.label.numpy())
print(f"accuracy {100 * classifier.score(test.numpy(), data.test.label.numpy()):.1f} %")
