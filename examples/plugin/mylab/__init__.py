"""Methods and data of ours for ssl_framework."""
