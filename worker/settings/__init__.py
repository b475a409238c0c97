"""Every knob, and the only room that reads the environment.

knobs     what can be set, its default and its bounds
sources   where values come from, highest first
loading   one from the other: values, their origins, warnings
uris      addresses of Redis, and how they are shown
maps      maps written as YAML or JSON
evolution Evolution's deprecated instance storage, which we never use

Nobody outside imports these modules by name: what is public stands here.
"""

from worker.settings.knobs import (
    FIELDS,
    LogFormat,
    LogLevel,
    Settings,
    check_address,
    name_of,
)
from worker.settings.loading import DEFAULT, Loaded, load
from worker.settings.maps import fits
from worker.settings.sources import connect_file
from worker.settings.uris import RedisUri, mask

__all__ = [
    "DEFAULT",
    "FIELDS",
    "Loaded",
    "LogFormat",
    "LogLevel",
    "RedisUri",
    "Settings",
    "check_address",
    "connect_file",
    "fits",
    "load",
    "mask",
    "name_of",
]
