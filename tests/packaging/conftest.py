"""The checkout's own folder of what is known of its dependencies, supply/, which is in no wheel."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))
