"""Drivers: what stores bytes. Each implements a port of `contracts.store`.

    store_local      a directory: lock, and the parts below under one roof; `open_store`
      meta_store     names, attributes, extents, xattrs: the calls   (port MetaStore)
        meta_state   the tree in memory, the truth while the store is open
        meta_body    the extents of one file, meta_blobs the names of blobs
        meta_changes what a transaction consists of, and its bytes in the journal
        meta_rename  rename(2)
      op_journal     transactions, written before they are acknowledged
      flush          from memory to blobs and tables
      meta_tables    rows: single reads, and batches to store; meta_schema their form
        sqlite       the dialect: connection, transactions, errors
      blob_local     contents of 4 KiB and more                      (port BlobStore)
      blob_memory    the fake
      room           the reserve file, and what may go on when the disk is full
      network        which disks are refused
      journal_sqlite agents' lines and replies of calls              (ports Journal, CallLog)

The way of a change. A call looks at the tree in memory, writes a record of what it is about to do
to the operation journal (write(2), no sync: it survives the death of the process), changes the
memory, and is acknowledged. A second later, or when much waits, a flush moves all that has
changed to the tables, in one transaction with `synchronous=FULL`. Until then the memory answers
for it; what is as stored may leave the memory and be read again.

Durability. fsync makes the blobs durable, then the journal that names them: two fdatasync for all
who wait. So a power cut loses nothing that fsync acknowledged. What it leaves of later records is
a run without a gap whose contents are there: numbers, checksums and digests say where it ends.
A flush makes blobs durable before it stores rows that name them, and frees the space of dead
ones when it is stored that nothing names them.

A full disk. What makes a store grow is ENOSPC while there is room for the flush of all that
waits; removals go on, with the space of the reserve file (`room`).

Snapshots and forks are not there yet; the schema has their place. `layer` has one row, and
inodes and edges carry (layer, version) in their keys. A snapshot or fork is one more row of
`layer` (its parent, and the parent's version where it was cut) and a higher version of the
parent: rows older than that are copied when they change. `inode.body`, which names extents and
xattrs, lets such copies share content until one is written. `meta_schema` has the details.
"""
