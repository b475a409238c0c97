"""The streams that the consumer can read: in a consumer group, or without one."""

from worker.store.stream.stream_reader import StreamReader
from worker.store.stream.ungrouped_reader import UngroupedStreamReader

EntryStream = StreamReader | UngroupedStreamReader
