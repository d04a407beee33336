"""Run the command line as `python -m vectuned.daemon`."""

import sys

from .cli import main

sys.exit(main())
