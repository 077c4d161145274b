"""`python -m lensflow.cli` runs `lensflow`."""

import sys

from lensflow.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
