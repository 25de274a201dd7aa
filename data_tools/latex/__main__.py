"""`python -m data_tools.latex`."""

import sys

from data_tools.latex.paper import main

if __name__ == "__main__":
    sys.exit(main())
