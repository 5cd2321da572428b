"""`python -m mnemic.cli` is the same as `mnemic`."""

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())
