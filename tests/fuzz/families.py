"""The families by name."""

from fuzz.adapters import Adapters
from fuzz.commands import Commands
from fuzz.configs import Configs
from fuzz.folders import Folders
from fuzz.structures import Structures

FAMILIES = {family.name: family for family in (Adapters, Structures, Configs, Commands, Folders)}
