"""Your own images: train on a folder, score it, and find the nearest neighbours of one image.

Writes a folder of pictures first, so that it runs anywhere; put your own in its place.
"""

from pathlib import Path

import torch
from PIL import Image, ImageDraw

import ssl_framework

folder = Path("outputs/gallery/pictures")
for label, draw_it in (("disc", ImageDraw.ImageDraw.ellipse), ("square", ImageDraw.ImageDraw.rectangle)):
    (folder / label).mkdir(parents=True, exist_ok=True)
    for number in range(24):
        picture = Image.new("RGB", (40, 40), (200, 10 * number, 120))
        draw_it(ImageDraw.Draw(picture), (8, 8, 24 + number % 8, 24 + number % 8), fill=(20, 60, 10 * number))
        picture.save(folder / label / f"{number}.png")

run = ssl_framework.compose(
    *("method=simclr", "data=folder", f"data.root={folder}", "data.image_size=32", "data.stored_size=40"),
    *("data.batch_size=16", "trainer=cpu", "trainer.max_epochs=3", "report=none", "evaluation.baselines=false"),
    *("evaluation.probes.knn.k=5", "evaluation.probes.linear=null"),
).fit("outputs/gallery/own_folder")
print(run.metrics)

files = sorted(folder.glob("*/*.png"))
pixels = torch.stack([torch.frombuffer(bytearray(Image.open(file).tobytes()), dtype=torch.uint8) for file in files])
images = pixels.view(-1, 40, 40, 3).permute(0, 3, 1, 2)[:, :, 4:36, 4:36]  # [N, 3, 32, 32] uint8
features = torch.nn.functional.normalize(run.embed(images))  # [N, D]
order = (features[0] @ features.T).argsort(descending=True)  # [N]
print("nearest to", files[0].name, [f"{files[i].parent.name}/{files[i].name}" for i in order[1:4].tolist()])
