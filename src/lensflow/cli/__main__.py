"""`python -m lensflow.cli` is `lensflow`."""

import sys

from lensflow.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
