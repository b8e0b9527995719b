"""The trained backbone in a format of its own or of another library, checked against the run's network.

python scripts/export.py run=outputs/latest                        safetensors, for timm.create_model
python scripts/export.py run=outputs/latest format=torchvision     under torchvision's names
python scripts/export.py run=outputs/latest format=onnx            a graph from pixels to features
python scripts/export.py run=outputs/latest format=torch           the same as a program of torch.export
python scripts/export.py run=outputs/latest format=hub out=folder  a folder for timm and the Hugging Face Hub
python scripts/export.py run=outputs/latest format=detectron2      a ResNet under Detectron2's names (mmdet likewise)
"""

import sys
from pathlib import Path

from ssl_framework.exporting import export
from ssl_framework.runs.groups import admit
from ssl_framework.runs.messages import as_typed, commanded, quiet, refusing, split_run


@commanded()
def main(arguments: list[str] | None = None) -> None:
    """The command; see this module's docstring."""
    arguments = admit(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(arguments):
        print(as_typed(str(__doc__)))
        return
    folder, rest = split_run(arguments, "python scripts/export.py run=outputs/latest out=backbone.safetensors")
    words = dict(item.partition("=")[::2] for item in rest)
    if set(words) - {"out", "format"} or len(words) != len(rest):
        sys.exit(f"error: unknown argument among {rest}: export takes run=FOLDER, format=NAME and out=FILE")
    quiet()
    with refusing():
        out, said = export(folder, Path(words["out"]) if "out" in words else None, words.get("format", "timm"))
    print(f"load it with:\n{said}")
    print(out)
