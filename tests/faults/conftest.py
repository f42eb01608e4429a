import sys
from pathlib import Path

# For processes that run something of a module beside this file, by its name.
sys.path.insert(0, str(Path(__file__).parent))
