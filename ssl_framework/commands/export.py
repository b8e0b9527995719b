"""The trained backbone as a file of its own, which timm loads where the network is timm's."""

import json
import sys
from pathlib import Path

from omegaconf import OmegaConf
from safetensors.torch import save_file

from ssl_framework.loading import load_run
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.groups import admit
from ssl_framework.runs.messages import commanded, error_line, split_run
from ssl_framework.runs.whole import whole


def export(folder: Path, out: Path) -> str:
    """Writes the backbone's weights under the network's own names; returns the call that loads them."""
    cfg, module = load_run(folder, [])
    backbone = module.student.backbone
    weights = {name: tensor.detach().contiguous() for name, tensor in backbone.net.state_dict().items()}
    views = OmegaConf.masked_copy(cfg.views, ["image_size", "channels", "mean", "std"])
    layout = OmegaConf.masked_copy(cfg.backbone, ["options", "channels_last"])
    trained_with = OmegaConf.to_container(OmegaConf.merge(views, layout))
    metadata = {**backbone.about(), "format": "pt"}
    metadata["trained_with"] = json.dumps(trained_with)  # what scripts/evaluate.py backbone=<file> needs
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as partial:
        save_file(weights, str(partial), metadata=metadata)
    return backbone.load_line(out)


@commanded()
def main(arguments: list[str] | None = None) -> None:
    """``run=FOLDER [out=FILE]``."""
    arguments = admit(sys.argv[1:] if arguments is None else arguments)
    folder, rest = split_run(arguments, "python scripts/export.py run=outputs/latest out=backbone.safetensors")
    outs = [a.removeprefix("out=") for a in rest if a.startswith("out=")]
    if len(outs) > 1 or len(outs) != len(rest):
        sys.exit(f"error: unknown argument among {rest}: export takes run=FOLDER and out=FILE")
    out = Path(outs[0]) if outs else RunFolder(folder).export_file
    try:
        print(f"load it with:\n{export(folder, out)}")
    except (ValueError, FileNotFoundError) as error:
        sys.exit(error_line(error))
    print(out)
