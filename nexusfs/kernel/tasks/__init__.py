"""Tasks: what copilots hand to workers. See `contracts.task` for states and moves.

A task is done by one process and has its number. All of it is in the worker's journal: `task` is
the fold (the request is in the spawn event, questions, reviews and artifacts are events of their
own, and the end of the process is the end of the task), so a task cannot be there without its
worker, nor end otherwise than it. What a copilot has seen of its tasks is in the copilot's journal:
`inbox` is that fold. So neither waits for the other: events stay where they are until they are
read, and a slow copilot loses none and stops no worker.

- `task`: one task, a fold of its worker's events.
- `inbox`: which events a copilot has not seen.
- `news`: what a copilot's prompt says of them.
- `table`: the owner of delegate, review, cancel, plans and collect.
"""
