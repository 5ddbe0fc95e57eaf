"""Starts the benchmark: `python docs/tools/bench [--quick] [--only A,E]`."""

import sys
from pathlib import Path

# A folder that is run puts itself in front of the path, where its modules would be found without their package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.run import main  # noqa: E402 - found by the line above

sys.exit(main(sys.argv[1:]))
