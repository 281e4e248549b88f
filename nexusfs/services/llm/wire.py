"""The lines between the kernel and the model worker: JSON Lines over one stream socket.

    kernel → worker   {"id": 1, "call": {"model", "messages", "tools", "settings",
                                         "conversation", "keep"}}
                      {"id": 1, "cancel": true}
                      {"forget": ["7"]}
                      {"ping": 1}                             while calls wait
    worker → kernel   {"hello": {"pid": 77}}                  at once
                      {"pong": 1}
                      {"ready": {"litellm": "1.105.3", "import_s": 5.1}} or {"error": "…"}
                      {"id": 1, "text": "Hel"}                any number
                      {"id": 1, "reply": {"message", "usage", "model", "finish_reason",
                                          "window_tokens"}}   last, or
                      {"id": 1, "error": {"kind", "retryable", "message", "retry_after_s"}}  last

Of a call with a `conversation`, `messages` are those after the first `keep`, which the worker has
from the last call of that conversation (prefixes.py). A cancelled call sends nothing more. End of
file from the kernel ends the worker.
"""

LINE_BYTES = 32 * 1024 * 1024
"""Longest line to the worker: a spec is at most 4 MiB, a transcript has many of them."""
REPLY_BYTES = 4 * 1024 * 1024
"""Longest line from the worker, and most that a model may say in one answer: the kernel parses and
keeps it in its one loop. Eight times what the longest answers of providers have, 128,000 tokens."""
