"""`python -m bench.grading`."""

import sys

from bench.grading.command import main

sys.exit(main())
