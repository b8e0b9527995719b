"""The trained backbone as a file of its own, which timm loads where the network is timm's."""

import json
import sys
from pathlib import Path

from omegaconf import OmegaConf

from ssl_framework.loading import load_run
from ssl_framework.models.exported import write_exported
from ssl_framework.models.weights import refuse_non_finite_weights
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.groups import admit
from ssl_framework.runs.messages import as_typed, commanded, quiet, refusing, split_run
from ssl_framework.runs.system import refuse_unwritable

USAGE = "python scripts/export.py run=outputs/latest out=backbone.safetensors"


def export(folder: Path, out: Path) -> str:
    """Writes the backbone's weights under the network's own names; returns the call that loads them.

    Raises:
        OSError, ValueError: there is no such run, nothing can be written there, or its weights are not finite.
    """
    refuse_unwritable(out)
    cfg, module = load_run(folder, [])
    backbone = module.student.backbone
    weights = {name: tensor.detach().contiguous() for name, tensor in backbone.net.state_dict().items()}
    refuse_non_finite_weights(weights, f"the backbone of {folder}")
    views = OmegaConf.masked_copy(cfg.views, ["image_size", "channels", "mean", "std"])
    layout = OmegaConf.masked_copy(cfg.backbone, ["options", "channels_last"])
    trained_with = OmegaConf.to_container(OmegaConf.merge(views, layout))
    metadata = {**backbone.about(), "format": "pt"}
    metadata["trained_with"] = json.dumps(trained_with)  # what scripts/evaluate.py backbone=<file> needs
    out.parent.mkdir(parents=True, exist_ok=True)
    write_exported(out, weights, metadata)
    return backbone.load_line(out)


@commanded()
def main(arguments: list[str] | None = None) -> None:
    """``run=FOLDER [out=FILE]``."""
    arguments = admit(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(arguments):
        print(as_typed(f"{USAGE}\n\n{__doc__}"))
        return
    folder, rest = split_run(arguments, USAGE)
    outs = [a.removeprefix("out=") for a in rest if a.startswith("out=")]
    if len(outs) > 1 or len(outs) != len(rest):
        sys.exit(f"error: unknown argument among {rest}: export takes run=FOLDER and out=FILE")
    out = Path(outs[0]) if outs else RunFolder(folder).export_file
    quiet()
    with refusing():
        print(f"load it with:\n{export(folder, out)}")
    print(out)
