"""`python -m data_tools.questions`."""

import sys

from data_tools.questions.make import main

if __name__ == "__main__":
    sys.exit(main())
