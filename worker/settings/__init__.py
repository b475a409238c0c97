"""Settings: their model, their sources, and the only code that reads the environment for them.

May import `core` and `errors`. Other packages import the names below.
"""

from worker.settings.loader import DEFAULT, LoadedSettings, load
from worker.settings.map_values import is_valid_name
from worker.settings.model import FIELDS, LogFormat, LogLevel, Settings, check_address, name_of
from worker.settings.redis_uri import RedisUri, mask
from worker.settings.sources import connect_file

__all__ = [
    "DEFAULT",
    "FIELDS",
    "LoadedSettings",
    "LogFormat",
    "LogLevel",
    "RedisUri",
    "Settings",
    "check_address",
    "connect_file",
    "is_valid_name",
    "load",
    "mask",
    "name_of",
]
