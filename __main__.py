"""`python -m mnemic` is the same as `mnemic`: what torchrun needs a name for."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
