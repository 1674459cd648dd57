"""One file per runtime, each importing its framework at the top; reached through the table in `registry.py`."""
