"""Every knob, and the only room that reads the environment.

knobs     what can be set, its default and its bounds
sources   where values come from, highest first
loading   one from the other: values, their origins, warnings
uris      addresses of Redis, and how they are shown
maps      maps written as YAML or JSON
evolution Evolution's deprecated instance storage, which we never use

Nobody outside imports these modules by name: what is public stands here.
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
