"""The agent: `loop` is one turn, `program` runs turns until there is an answer."""
