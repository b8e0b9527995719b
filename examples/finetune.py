"""Fine-tunes exported weights in plain timm and torch: nothing here but the import of our small nets is this package's.

    python scripts/export.py run=outputs/latest out=encoder.safetensors
    python examples/finetune.py encoder.safetensors IMAGES    # IMAGES/<class>/*.png

The file says which network it holds, and the size, mean and standard deviation that it was trained with.
"""

import argparse
import json

import timm
import torch
import torchvision
from safetensors import safe_open
from timm.optim import create_optimizer_v2
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import ssl_framework.models.backbone  # noqa: F401  registers the small nets with timm; a net of timm's own needs no import


def main() -> None:
    """Trains classifier and network, the lower layers more slowly, and prints the loss of every epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="of scripts/export.py")
    parser.add_argument("images", help="a folder with a folder of images for each class")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()

    with safe_open(given.weights, "pt") as file:
        about = file.metadata()
    trained_with = json.loads(about["trained_with"])
    size, channels = trained_with["image_size"], trained_with["channels"]
    preprocess = v2.Compose(
        [
            *([v2.Grayscale()] if channels == 1 else []),
            v2.ToImage(),
            v2.RandomResizedCrop(size, scale=(0.5, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(trained_with["mean"], trained_with["std"]),
        ]
    )
    data = torchvision.datasets.ImageFolder(given.images, preprocess)
    loader = DataLoader(data, given.batch, shuffle=True)

    net = timm.create_model(about["timm_name"], num_classes=0, in_chans=channels, **trained_with["options"])
    timm.models.load_checkpoint(net, given.weights)
    net.reset_classifier(len(data.classes))  # a fresh linear layer on the pooled features
    optimizer = create_optimizer_v2(net, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
    for epoch in range(given.epochs):
        losses = []
        for images, labels in loader:
            loss = cross_entropy(net(images), labels)  # [B, classes] and [B]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}/{given.epochs}  loss {sum(losses) / len(losses):.3f}")


if __name__ == "__main__":
    main()
