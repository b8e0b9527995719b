"""A backbone as safetensors: ``python scripts/export.py run=outputs/latest [out=backbone.safetensors]``."""

from ssl_framework.commands.entry import export

if __name__ == "__main__":
    export()
