"""A backbone as safetensors: ``python scripts/export.py run=outputs/latest [out=backbone.safetensors]``."""

from ssl_framework.commands.export import main

if __name__ == "__main__":
    main()
