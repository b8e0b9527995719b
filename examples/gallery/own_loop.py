"""A loop of your own: views and objective on plain tensors, with any network and any optimizer."""

import torch

import ssl_framework
from ssl_framework.objectives.dcl import DCL

composition = ssl_framework.compose("method=dcl", "data=shapes", "data.source.num_train=256", "data.source.num_test=16")
pixels, views = composition.data().pretrain.rows, composition.views()
objective = DCL(temperature=0.2, weight_sigma=None)

torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Conv2d(3, 16, 3, 2),
    torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(4),
    torch.nn.Flatten(),
    torch.nn.Linear(256, 32),
)
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
losses = []
for _ in range(30):
    batch = pixels[torch.randint(len(pixels), (64,))]  # [B, 3, 32, 32] uint8
    v0, v1 = views.of(batch)  # [B, 3, 32, 32] float32 each
    loss = objective.loss_of(net(v0), net(v1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
