"""``python -m chatcluster``."""

from chatcluster.app.cli import main

main()
