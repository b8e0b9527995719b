"""A backbone as safetensors: ``python scripts/export.py run=outputs/latest [out=backbone.safetensors]``."""

from ssl_framework.models.export import main

if __name__ == "__main__":
    main()
