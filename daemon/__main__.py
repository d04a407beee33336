"""Run the command line as `python -m vectuned.daemon`."""

import sys

from vectuned.daemon.cli.main import main

sys.exit(main())
