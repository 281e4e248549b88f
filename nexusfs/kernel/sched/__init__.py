"""The scheduler: who gets a model slot next, who is admitted, and who has to make room.

`claim`   one agent's wish for a slot, and the numbers that decide about it
`owner`   the claims of one owner, in the order in which they get his slots
`slots`   all owners: how many slots there are, and whose turn it is
`room`    which agents live in the kernel: admission, eviction, resumption

Slots are given in two steps. Between owners: the one whose most important claim has the lower
class, where an owner who is passed over by who has used more goes up a class every `ageing_s`;
among equals the one who has used the fewest slot-seconds. Within an owner: the lower class, where
each claim goes up a class for every `ageing_s` that it waits, without end; in a class the higher
response ratio, (waiting + estimate) / estimate, weighted by nice.

So the bound is: nobody who comes five times `ageing_s` after a claim of the same owner goes before
it, and an owner who is passed over for that long goes before all who are not.
"""
