"""The streams that the consumer can read: in a consumer group, or without one."""

from worker.store.stream.groupless import GrouplessStream
from worker.store.stream.stream_reader import StreamReader

EntryStream = StreamReader | GrouplessStream
