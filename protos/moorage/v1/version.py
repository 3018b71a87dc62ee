"""The distribution's version, for both sides of the API; pyproject.toml takes it from here.

Not from the installed distribution's metadata: to read those costs a command line that only wants to say it a tenth of its time.
"""

from typing import Final

VERSION: Final = "0.1.0"
