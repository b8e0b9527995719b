# %% [markdown]
# # Self-supervised pretraining in a notebook
#
# Every cell below also runs as a script: `python examples/notebook.py`. Two minutes on a CPU.

# %% Compose a config, as `python train.py method=simclr ...` does
import torch

import ssl_framework

composition = ssl_framework.compose(
    *("method=simclr", "data=shapes", "data.source.num_train=400", "data.source.num_test=100", "data.batch_size=64"),
    *("trainer=cpu", "trainer.max_epochs=2", "evaluation.probes.knn.k=20", "report=none"),
)
print(composition.about["command"])
print(composition.config.objective)

# %% Train and evaluate it; the run folder is that of the command
run = composition.fit("outputs/notebook")
print(run.metrics)

# %% A finished run is an encoder, here or in another notebook
run = ssl_framework.load("outputs/notebook")
images = composition.data().test.rows[torch.arange(8)]  # [8, 3, 32, 32] uint8
features = run.embed(images)  # [8, D] float32
print(features.shape)

# %% Other protocols, other data
print(run.evaluate("evaluation=retrieval"))

# %% Train it further
run = ssl_framework.resume("outputs/notebook", "trainer.max_epochs=3")
print(run.result["steps"])

# %% A loop of one's own: views and objective on plain tensors, any network
from ssl_framework.objectives.simclr import SimCLR  # noqa: E402

views = composition.views()
net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, 2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(3600, 32))
objective = SimCLR(temperature=0.2)
optimizer = torch.optim.Adam([*net.parameters(), *objective.parameters()], lr=1e-3)
pixels = composition.data().pretrain.rows
for _ in range(20):
    batch = pixels[torch.randint(len(pixels), (64,))]  # [64, 3, 32, 32] uint8
    v0, v1 = views.of(batch)  # [64, 3, 32, 32] float32 each
    loss = objective.loss_of(net(v0), net(v1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.2f}")

# %% Or the parts of a method under a Trainer of one's own
import lightning as L  # noqa: E402

data = composition.data()
module = composition.module(data)
quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
trainer = L.Trainer(accelerator="cpu", max_epochs=1, **quiet)
trainer.fit(module, datamodule=data)
print({name: round(float(value), 2) for name, value in trainer.callback_metrics.items()})
