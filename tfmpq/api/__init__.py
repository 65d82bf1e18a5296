"""The functions of `import tfmpq`, one file a verb."""

from tfmpq.allocator import keep_freed_memory

keep_freed_memory()  # before the first large buffer, and for every verb
